"""Active probes of backends, and what must be known of a model before its requests can be placed."""

import asyncio
import contextlib
from random import random
from typing import TYPE_CHECKING

import msgspec

from gateway.dataplane.addresses import keep_resolved, system_lookup
from gateway.dataplane.fetch import fetch
from gateway.dataplane.pool import BackendRuntime, PoolRuntime
from gateway.dataplane.table import Table, VariantRuntime
from gateway.errors import UnreachableError

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

_LEARN_TIMEOUT_S = 2.0
_LEARN_PAUSE_S = 1.0


class _SequenceBatching(msgspec.Struct):
    max_sequence_idle_microseconds: int | str = 0


class _ModelConfig(msgspec.Struct):
    sequence_batching: _SequenceBatching | None = None


class Prober:
    """One task per backend and per pool with names while they live, one per generation that reads configurations."""

    def __init__(self, service: "DataPlane") -> None:
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()
        self._learning: asyncio.Task[None] | None = None

    def watch_backend(self, pool: PoolRuntime, backend: BackendRuntime) -> None:
        """Probes a backend until it retires."""
        self._spawn(self._probe(pool, backend))

    def watch_names(self, pool: PoolRuntime) -> None:
        """Looks the names of a pool up until it retires."""
        self._spawn(keep_resolved(pool, system_lookup))

    def learn(self, table: Table) -> None:
        """Reads the configuration of every variant's model, again and again until all are known."""
        if self._learning is not None:
            self._learning.cancel()
        self._learning = self._spawn(self._learn(table))

    def close(self) -> None:
        """Ends all tasks."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._service.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _probe(self, pool: PoolRuntime, backend: BackendRuntime) -> None:
        while not backend.retired and (probe := pool.config.probe).interval_s:
            try:
                reply = await fetch(backend, b"GET", b"/v2/health/ready", timeout_s=probe.timeout_s)
                success = reply.status == 200
            except UnreachableError:
                success = False
            if backend.health.probed(success, probe):
                pool.refresh()
                if not success:
                    # Triton waits for open connections when it exits: let go of ours at the first sign.
                    backend.close_idle()
            await asyncio.sleep(probe.interval_s * (0.9 + 0.2 * random()))
        backend.watched = False

    async def _learn(self, table: Table) -> None:
        unknown = [(route, variant) for route in table.routes.values() for variant in route.variants]
        while unknown:
            missing = []
            for route, variant in unknown:
                if await self._learn_one(variant):
                    route.learned()
                else:
                    missing.append((route, variant))
            unknown = missing
            if unknown:
                await asyncio.sleep(_LEARN_PAUSE_S)

    async def _learn_one(self, variant: VariantRuntime) -> bool:
        for backend in variant.pool.available:
            with contextlib.suppress(UnreachableError, msgspec.MsgspecError):
                reply = await fetch(backend, b"GET", variant.path + b"/config", timeout_s=_LEARN_TIMEOUT_S)
                if reply.status != 200:
                    continue
                config = msgspec.json.decode(reply.body, type=_ModelConfig)
                batching = config.sequence_batching
                variant.sequences = batching is not None
                if batching is not None and (idle_us := int(batching.max_sequence_idle_microseconds)):
                    variant.sequence_idle_s = idle_us / 1e6
                return True
        return False
