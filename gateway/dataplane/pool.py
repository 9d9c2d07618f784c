"""Backends at run time: keep-alive connections, leases, health, and the choice among them."""

import asyncio
import ssl
from collections.abc import Callable
from random import random
from time import perf_counter
from urllib.parse import urlsplit

from gateway.core.balance import choose
from gateway.core.health import Health, may_eject, panics
from gateway.core.pool import Backend, Pool
from gateway.errors import ConfigError
from gateway.http.client import UpstreamConnection
from gateway.http.head import Heads
from gateway.sequences import short_digest
from gateway.telemetry.records import BackendStatus


class BackendRuntime:
    """One Triton endpoint: its idle connections (last in, first out), its leases and its health.

    Attributes:
        in_flight: leases held now, lingering ones included.
        weight: relative capacity.
        host_line: the Host field for requests to it.
        health: probes' and observations' view.
        digest: stands for the backend in the node's sequence table.
    """

    def __init__(self, pool: "PoolRuntime", config: Backend, heads: Heads, max_head_bytes: int) -> None:
        parts = urlsplit(config.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
            raise ConfigError([f"backend url {config.url!r} is not http(s)://host:port"])
        self.url = config.url
        self.weight = config.weight
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.host_line = b"Host: %s\r\n" % parts.netloc.encode()
        self.digest = short_digest(config.url)
        self.health = Health(up=True)
        self.in_flight = 0
        self.idle: list[UpstreamConnection] = []
        self.open = 0
        self.connects = 0
        self.connect_failures = 0
        self.ejections = 0
        self.failures = 0
        self.requests = 0
        self.retired = False
        self._pool = pool
        self._heads = heads
        self._max_head_bytes = max_head_bytes

    def take_idle(self) -> UpstreamConnection | None:
        """The most recently used idle connection that is still open."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection; raises OSError or TimeoutError."""
        self.connects += 1
        try:
            async with asyncio.timeout(self._pool.config.connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: UpstreamConnection(self, self._heads, self._max_head_bytes),
                    self.host,
                    self.port,
                    ssl=self.tls,
                )
        except (OSError, TimeoutError):
            self.connect_failures += 1
            raise
        self.open += 1
        return connection

    def released(self, connection: UpstreamConnection) -> None:
        """Takes back a connection whose exchange ended."""
        if self.retired or len(self.idle) >= self._pool.config.max_idle:
            connection.close()
            return
        connection.idle_since = perf_counter()
        self.idle.append(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """Forgets a connection that is gone."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)

    def close_idle(self, before: float) -> None:
        """Closes connections idle since before that time; they are the oldest at the bottom of the stack."""
        idle = self.idle
        while idle and idle[0].idle_since < before:
            idle.pop(0).close()

    def observe(self, success: bool) -> None:
        """Takes in how a request to this backend ended (its own fault or not)."""
        if success:
            if self.health.failures:
                self.health.observed(True)
            return
        self.failures += 1
        self.health.observed(False)
        if self.health.should_eject(self._pool.config.ejection):
            self._pool.eject(self)

    def status(self) -> BackendStatus:
        """Its state for reports."""
        return BackendStatus(
            pool=self._pool.config.name,
            url=self.url,
            state=self.health.state(perf_counter()),
            in_flight=self.in_flight,
            idle=len(self.idle),
            connects=self.connects,
            connect_failures=self.connect_failures,
            ejections=self.ejections,
            failures=self.failures,
            requests=self.requests,
        )


class PoolRuntime:
    """The backends of one pool and which of them may take requests.

    Attributes:
        available: cached result of health over all backends; `refresh` renews it when health changed.
    """

    def __init__(self, config: Pool, heads: Heads, max_head_bytes: int) -> None:
        self.config = config
        self.backends = [BackendRuntime(self, backend, heads, max_head_bytes) for backend in config.backends]
        self.available: list[BackendRuntime] = list(self.backends)
        self.max_in_flight = config.max_in_flight

    def refresh(self) -> None:
        """Renews `available`; in panic all backends are in it."""
        now = perf_counter()
        fit = [backend for backend in self.backends if backend.health.available(now)]
        self.available = list(self.backends) if panics(len(self.backends), len(fit), self.config.panic_percent) else fit

    @property
    def healthy(self) -> int:
        """How many backends their own health allows, whatever panic says."""
        now = perf_counter()
        return sum(backend.health.available(now) for backend in self.backends)

    def lease(self, avoid: BackendRuntime | None = None) -> BackendRuntime | None:
        """Takes a lease on one backend; None when all are full. The caller ends it with `release`.

        Args:
            avoid: a backend that just failed this request and is used only if nothing else is there.
        """
        candidates = self.available
        if avoid is not None and len(candidates) > 1:
            candidates = [backend for backend in candidates if backend is not avoid]
        found = candidates[0] if len(candidates) == 1 else choose(candidates, random())
        bound = self.max_in_flight
        if found is not None and found.in_flight >= bound:
            found = next((backend for backend in candidates if backend.in_flight < bound), None)
        if found is not None:
            found.in_flight += 1
            found.requests += 1
        return found

    def lease_on(self, backend: BackendRuntime) -> BackendRuntime | None:
        """Takes a lease on one given backend; None when it is full."""
        if backend.in_flight >= self.max_in_flight:
            return None
        backend.in_flight += 1
        backend.requests += 1
        return backend

    def eject(self, backend: BackendRuntime) -> None:
        """Takes a backend out for a while, unless too many are out."""
        now = perf_counter()
        out = sum(not other.health.available(now) for other in self.backends)
        if may_eject(len(self.backends), out, self.config.ejection.max_percent):
            until = backend.health.eject(now, self.config.ejection, random())
            backend.ejections += 1
            asyncio.get_running_loop().call_later(max(until - now, 0.0) + 0.001, self.refresh)
            self.refresh()

    def retire(self) -> None:
        """Closes what is idle; connections in use close when their exchange ends."""
        for backend in self.backends:
            backend.retired = True
            while backend.idle:
                backend.idle.pop().close()


class Pools:
    """All pools of a worker, kept over generations as long as their configuration stays the same."""

    def __init__(self, heads: Heads, max_head_bytes: int, started: Callable[[PoolRuntime], None]) -> None:
        self.by_name: dict[str, PoolRuntime] = {}
        self._heads = heads
        self._max_head_bytes = max_head_bytes
        self._started = started

    def update(self, configs: tuple[Pool, ...]) -> None:
        """Makes the running pools those of the configuration."""
        wanted = {config.name: config for config in configs}
        for name, pool in list(self.by_name.items()):
            if wanted.get(name) != pool.config:
                del self.by_name[name]
                pool.retire()
        for name, config in wanted.items():
            if name not in self.by_name:
                self.by_name[name] = PoolRuntime(config, self._heads, self._max_head_bytes)
                self._started(self.by_name[name])

    def close_idle(self) -> None:
        """Closes connections that have been idle for too long."""
        now = perf_counter()
        for pool in self.by_name.values():
            for backend in pool.backends:
                backend.close_idle(now - pool.config.idle_timeout_s)
