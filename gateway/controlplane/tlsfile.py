"""The admin API's certificate, which follows its files."""

import ssl

from gateway.config_security import Tls
from gateway.errors import ConfigError
from gateway.filewatch import FileWatch
from gateway.telemetry.logs import logger
from gateway.tls import listener_context, listener_files

_log = logger("api")


class AdminTls:
    """One context for the life of the server; raises ConfigError when there is no usable certificate.

    Attributes:
        context: None without TLS.
    """

    def __init__(self, config: Tls | None) -> None:
        self._config = config
        self._watch = FileWatch(listener_files(config))
        self.context: ssl.SSLContext | None = listener_context(config, "admin.tls") if config else None

    def renew(self, force: bool) -> None:
        """Takes in a certificate that changed; a broken one leaves the old in use.

        Authorities for client certificates stay until the controller starts anew: a context cannot forget one.
        """
        if self._config is None or self.context is None or not (self._watch.changed() or force):
            return
        try:
            listener_context(self._config, "admin.tls")
        except ConfigError as error:
            _log.error("the last good certificate stays in use", reason=str(error))
        else:
            self.context.load_cert_chain(self._config.cert_file, self._config.key_file or None)
