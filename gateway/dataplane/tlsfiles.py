"""TLS contexts that follow their files: a renewed certificate is in use within a second, a broken one never."""

import logging
import ssl

from gateway.config_security import Tls
from gateway.core.pool import BackendTls
from gateway.errors import ConfigError
from gateway.filewatch import FileWatch
from gateway.tls import backend_context, backend_files, listener_context, listener_files

_LOG = logging.getLogger(__name__)


class ListenerTls:
    """The listener's context.

    Attributes:
        config: its settings; None speaks plain HTTP.
        context: for the next connection; None without TLS, and while no usable certificate was ever there.
    """

    def __init__(self, config: Tls | None) -> None:
        self.config = config
        self.context: ssl.SSLContext | None = None
        self._watch = FileWatch(listener_files(config))
        self._load()

    def renew(self, force: bool = False) -> bool:
        """Takes in files that changed; True when the context is a new one."""
        return self._load() if force or self._watch.changed() else False

    def _load(self) -> bool:
        if self.config is None:
            return False
        try:
            self.context = listener_context(self.config, "listen.tls")
        except ConfigError as error:
            state = "the last good certificate stays in use" if self.context else "no connection is accepted"
            _LOG.error("%s; %s", error, state)
            return False
        return True


class PoolTls:
    """The context for connections to a pool's https backends; made when the first one is needed."""

    def __init__(self, config: BackendTls, pool: str) -> None:
        self.config = config
        self._where = f"pool {pool}: tls"
        self._context: ssl.SSLContext | None = None
        self._watch = FileWatch(backend_files(config))

    def context(self) -> ssl.SSLContext:
        """The context; raises OSError as long as there is no usable one."""
        if self._context is None:
            try:
                self._context = backend_context(self.config, self._where)
            except ConfigError as error:
                raise ConnectionError(str(error)) from error
        return self._context

    def renew(self, force: bool = False) -> bool:
        """Takes in files that changed; True when connections should be made anew."""
        if not (force or self._watch.changed()):
            return False
        try:
            context = backend_context(self.config, self._where)
        except ConfigError as error:
            _LOG.error("%s; the last good certificate stays in use", error)
            return False
        self._context = context
        return True
