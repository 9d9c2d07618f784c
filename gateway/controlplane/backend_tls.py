"""How the controller speaks TLS to backends: with each pool's own authorities, certificate and name."""

import ssl

import httpx

from gateway.core.pool import BackendTls, Pool
from gateway.errors import ConfigError
from gateway.filewatch import FileWatch
from gateway.telemetry.logs import logger
from gateway.tls import backend_context, backend_files

_log = logger("fleet")


class _Transport(httpx.AsyncHTTPTransport):
    """Expects a given name in the backend's certificate."""

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(verify=context)
        self._server_name = server_name

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._server_name:
            request.extensions = {**request.extensions, "sni_hostname": self._server_name}
        return await super().handle_async_request(request)


class BackendTransports:
    """Transports for the https backends of all pools.

    Attributes:
        mounts: what httpx clients take under that name.
    """

    def __init__(self, pools: tuple[Pool, ...]) -> None:
        self.mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
        self._contexts: list[tuple[ssl.SSLContext, BackendTls, str, FileWatch]] = []
        for pool in pools:
            urls = [backend.url.rstrip("/") for backend in pool.backends if backend.url.startswith("https://")]
            if not urls:
                continue
            try:
                context = backend_context(pool.tls, f"pool {pool.name}: tls")
            except ConfigError as error:
                _log.error("its backends are not asked anything", pool=pool.name, reason=str(error))
                continue
            self._contexts.append((context, pool.tls, pool.name, FileWatch(backend_files(pool.tls))))
            self.mounts |= dict.fromkeys(urls, _Transport(context, pool.tls.server_name))

    def renew(self, force: bool) -> None:
        """Takes in certificates that changed; broken ones leave the old in use."""
        for context, tls, name, watch in self._contexts:
            if not (watch.changed() or force):
                continue
            try:
                backend_context(tls, f"pool {name}: tls")
            except ConfigError as error:
                _log.error("the last good certificate stays in use", pool=name, reason=str(error))
                continue
            if tls.ca_file and tls.verify:
                context.load_verify_locations(cafile=tls.ca_file)
            if tls.cert_file:
                context.load_cert_chain(tls.cert_file, tls.key_file or None)
