"""Backends at run time: keep-alive connections, leases, health, and the choice among them."""

import asyncio
from collections.abc import Container, Sequence
from random import random
from time import perf_counter
from typing import Protocol

from gateway.core.balance import choose
from gateway.core.health import Breaker, Health, may_eject, panics
from gateway.core.pool import Pool
from gateway.dataplane.addresses import Address, address
from gateway.dataplane.tlsfiles import PoolTls
from gateway.dataplane.warming import Warming
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
        waiting: requests that wait inside Triton, by its own metrics, where they are read.
        waiting_by_model: the same by model.
        health: probes' and observations' view.
        drained: it gets nothing new, for maintenance.
        watched: it is being probed.
        digest: stands for the backend in the node's sequence table.
    """

    def __init__(self, pool: "PoolRuntime", place: Address, up: bool, heads: Heads, max_head_bytes: int) -> None:
        self.url = place.url
        self.place = place
        self.weight = place.weight
        self.waiting = 0
        self.waiting_by_model: dict[str, int] = {}
        self.host_line = b"Host: %s\r\n" % place.authority.encode()
        self.digest = short_digest(place.url)
        self.health = Health(up=up)
        self.drained = False
        self.watched = False
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
        place, pool = self.place, self._pool
        try:
            tls = pool.tls.context() if place.tls else None
            async with asyncio.timeout(pool.config.connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: UpstreamConnection(self, self._heads, self._max_head_bytes),
                    place.host,
                    place.port,
                    ssl=tls,
                    server_hostname=(pool.config.tls.server_name or place.name) if tls else None,
                )
        except (OSError, TimeoutError):
            self.connect_failures += 1
            raise
        self.open += 1
        if connection.transport is None:  # reset before it could be used, which `closed` has heard of already
            self.connect_failures += 1
            raise ConnectionResetError(f"{self.url} reset a new connection")
        return connection

    def released(self, connection: UpstreamConnection) -> None:
        """Takes back a connection whose exchange ended."""
        if self.retired or self.drained or len(self.idle) >= self._pool.config.max_idle:
            connection.close()
            return
        connection.idle_since = perf_counter()
        self.idle.append(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """Forgets a connection that is gone."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)

    def close_idle(self, before: float = float("inf")) -> None:
        """Closes connections idle since before that time; they are the oldest at the bottom of the stack."""
        idle = self.idle
        while idle and idle[0].idle_since < before:
            idle.pop(0).close()

    def retire(self) -> None:
        """It serves no more: what is idle closes now, connections in use when their exchange ends."""
        self.retired = True
        self.close_idle()

    def queued(self, waiting_by_model: dict[str, int]) -> None:
        """Takes in what Triton says of its queues."""
        self.waiting_by_model = waiting_by_model
        self.waiting = sum(waiting_by_model.values())

    def observe(self, success: bool) -> None:
        """Takes in how a request to this backend ended (its own fault or not)."""
        if success:
            if not self.health.settled and self.health.observed(True):
                self._pool.refresh()
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
            state="drained" if self.drained else self.health.state(perf_counter()),
            in_flight=self.in_flight,
            idle=len(self.idle),
            connects=self.connects,
            connect_failures=self.connect_failures,
            ejections=self.ejections,
            failures=self.failures,
            requests=self.requests,
        )


class Watcher(Protocol):
    """Looks after pools and their backends in the background."""

    def watch_backend(self, pool: "PoolRuntime", backend: BackendRuntime) -> None:
        """Probes it until it retires."""

    def watch_names(self, pool: "PoolRuntime") -> None:
        """Looks the pool's names up until it retires."""


class PoolRuntime:
    """The backends of one pool and which of them may take requests.

    Attributes:
        available: cached result of health over all backends; `refresh` renews it when health changed.
        tls: for connections to https backends.
        retired: the pool exists no more.
    """

    def __init__(self, config: Pool, heads: Heads, max_head_bytes: int, watcher: Watcher) -> None:
        self.config = config
        self.backends: list[BackendRuntime] = []
        self.available: list[BackendRuntime] = []
        self.max_in_flight = config.max_in_flight
        self.tls = PoolTls(config.tls, config.name)
        self.retired = False
        self._resolved: dict[str, tuple[str, ...]] = {}
        self._warming = Warming()
        self._on_trial: frozenset[BackendRuntime] = frozenset()
        self._heads = heads
        self._max_head_bytes = max_head_bytes
        self._watcher = watcher
        self._names_watched = False
        self._populate()

    def reconfigure(self, config: Pool) -> None:
        """Takes over other settings; a backend that stays keeps its connections, leases and health."""
        before = self.config
        self.config, self.max_in_flight = config, config.max_in_flight
        if config.tls != before.tls:
            self.tls = PoolTls(config.tls, config.name)
            self.reconnect()
        self._populate()

    def resolved(self, url: str, hosts: tuple[str, ...]) -> None:
        """The name in that backend's url has these addresses now."""
        if self._resolved.get(url) != hosts:
            self._resolved[url] = hosts
            self._populate()

    def _populate(self) -> None:
        """Makes `backends` what the settings and the names say."""
        wanted: dict[str, Address] = {}
        for backend in self.config.backends:
            hosts = self._resolved.get(backend.url, ()) if backend.dns else ("",)
            for host in hosts:
                place = address(backend, host)
                wanted.setdefault(place.url, place)
        kept: list[BackendRuntime] = []
        for runtime in self.backends:
            place_now = wanted.pop(runtime.url, None)
            if place_now is None:
                runtime.retire()
                self._warming.end(runtime)
                continue
            if place_now != runtime.place:
                runtime.place, runtime.weight = place_now, place_now.weight
            kept.append(runtime)
        # Beside backends that serve, a new one must answer a probe before it gets requests.
        up = not kept or not self.config.probe.interval_s
        fresh = [BackendRuntime(self, place, up, self._heads, self._max_head_bytes) for place in wanted.values()]
        first = not self.backends
        self.backends = kept + fresh
        for runtime in self.backends:
            runtime.drained = runtime.url in self.config.drained
            if runtime.drained:
                runtime.close_idle()
        if first:
            self.available = fresh  # all are equally new: nothing to warm up against
        self.refresh()
        self._watch()

    def _watch(self) -> None:
        if self.config.probe.interval_s:
            for backend in self.backends:
                if not backend.watched:
                    backend.watched = True
                    self._watcher.watch_backend(self, backend)
        if not self._names_watched and any(backend.dns for backend in self.config.backends):
            self._names_watched = True
            self._watcher.watch_names(self)

    def refresh(self) -> None:
        """Renews `available`; in panic all backends are in it but the drained ones."""
        now = perf_counter()
        for backend in self.backends:
            backend.health.elapsed(now)
        usable = [backend for backend in self.backends if not backend.drained]
        self._on_trial = frozenset(backend for backend in usable if backend.health.breaker is Breaker.HALF_OPEN)
        fit = [backend for backend in usable if backend.health.available(now)]
        before = self.available
        self.available = usable if panics(len(usable), len(fit), self.config.panic_percent) else fit
        for backend in self.available:
            if backend not in before:
                self._warming.begin(backend, self.config.slow_start_s)

    def reconnect(self) -> None:
        """Lets the next requests make new connections, with what TLS says now."""
        for backend in self.backends:
            if backend.place.tls:
                backend.close_idle()

    @property
    def healthy(self) -> int:
        """How many backends their own health allows, whatever panic says."""
        now = perf_counter()
        return sum(backend.health.available(now) for backend in self.backends if not backend.drained)

    def lease(
        self, avoid: BackendRuntime | None = None, lacking: Container[BackendRuntime] = ()
    ) -> BackendRuntime | None:
        """Takes a lease on one backend; None when all are full. The caller gives it back.

        Args:
            avoid: a backend that just failed this request and is used only if nothing else is there.
            lacking: backends without the model; used only if no other is available.
        """
        candidates: Sequence[BackendRuntime] = self.available
        if lacking:
            candidates = [backend for backend in candidates if backend not in lacking] or candidates
        if avoid is not None and len(candidates) > 1:
            candidates = [backend for backend in candidates if backend is not avoid]
        if self._on_trial:
            busy = [backend for backend in self._on_trial if backend.in_flight]
            candidates = [backend for backend in candidates if backend not in busy] or candidates
        if self._warming.shares:
            candidates = self._warming.chosen(candidates)
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
        usable = [other for other in self.backends if not other.drained]
        out = sum(not other.health.available(now) for other in usable)
        if may_eject(len(usable), out, self.config.ejection.max_percent):
            until = backend.health.eject(now, self.config.ejection, random())
            backend.ejections += 1
            asyncio.get_running_loop().call_later(max(until - now, 0.0) + 0.001, self.refresh)
            self.refresh()

    def retire(self) -> None:
        """Closes what is idle; connections in use close when their exchange ends."""
        self.retired = True
        for backend in self.backends:
            backend.retire()


class Pools:
    """All pools of a worker, kept over generations."""

    def __init__(self, heads: Heads, max_head_bytes: int, watcher: Watcher) -> None:
        self.by_name: dict[str, PoolRuntime] = {}
        self._heads = heads
        self._max_head_bytes = max_head_bytes
        self._watcher = watcher

    def update(self, configs: tuple[Pool, ...]) -> None:
        """Makes the running pools those of the configuration."""
        wanted = {config.name: config for config in configs}
        for name in [name for name in self.by_name if name not in wanted]:
            self.by_name.pop(name).retire()
        for name, config in wanted.items():
            pool = self.by_name.get(name)
            if pool is None:
                self.by_name[name] = PoolRuntime(config, self._heads, self._max_head_bytes, self._watcher)
            elif pool.config != config:
                pool.reconfigure(config)

    def close_idle(self) -> None:
        """Closes connections that have been idle for too long."""
        now = perf_counter()
        for pool in self.by_name.values():
            for backend in pool.backends:
                backend.close_idle(now - pool.config.idle_timeout_s)

    def renew_tls(self, force: bool = False) -> None:
        """Takes in certificates that changed."""
        for pool in self.by_name.values():
            if pool.tls.renew(force):
                pool.reconnect()
