"""Active probes of backends, and what must be known of a model before its requests can be placed."""

import asyncio
import contextlib
import math
from random import random
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from gateway.core.load import pending_by_model
from gateway.core.pool import Probe
from gateway.dataplane.addresses import keep_resolved, system_lookup
from gateway.dataplane.fetch import fetch
from gateway.dataplane.pool import BackendRuntime, PoolRuntime
from gateway.dataplane.table import Table, VariantRuntime
from gateway.errors import UnreachableError

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

_LEARN_TIMEOUT_S = 2.0
_MAX_METRICS = 4 << 20
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
        """Finds out about the table's models and goes on asking which backends have them ready."""
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
            success = await self._answers(backend, probe)
            if success and backend.place.metrics_port:
                backend.queued(await self._queues(backend, probe.timeout_s))
            if not success:
                # Triton waits for open connections when it exits: let go of ours, the probe's own too.
                backend.close_idle()
            if backend.health.probed(success, probe):
                pool.refresh()
            await asyncio.sleep(probe.interval_s * (0.9 + 0.2 * random()))
        backend.watched = False

    @staticmethod
    async def _answers(backend: BackendRuntime, probe: Probe) -> bool:
        """One probe: ready, and where that is asked for, able to infer."""
        try:
            reply = await fetch(backend, b"GET", b"/v2/health/ready", timeout_s=probe.timeout_s)
            if reply.status == 200 and (wanted := probe.inference) is not None:
                path = f"/v2/models/{wanted.model}/infer".encode()
                reply = await fetch(backend, b"POST", path, timeout_s=probe.timeout_s, body=wanted.body.encode())
        except UnreachableError:
            return False
        return reply.status == 200

    @staticmethod
    async def _queues(backend: BackendRuntime, timeout_s: float) -> dict[str, int]:
        """Requests waiting inside Triton, by model; empty when its metrics cannot be read."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(backend.place.host, backend.place.metrics_port)
                try:
                    writer.write(b"GET /metrics HTTP/1.1\r\n" + backend.host_line + b"Connection: close\r\n\r\n")
                    text = bytearray()
                    while len(text) < _MAX_METRICS and (part := await reader.read(_MAX_METRICS)):
                        text += part
                    return pending_by_model(bytes(text))
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return {}

    async def _learn(self, table: Table) -> None:
        """Until the next table: reads what is unknown of a model, and who has it ready."""
        variants = [(route, variant) for route in table.routes.values() for variant in route.variants]
        asked = {id(variant): 0.0 for _, variant in variants}  # when its backends were last asked
        while variants:
            now = perf_counter()
            for route, variant in variants:
                if variant.sequences is None and await self._learn_one(variant):
                    route.learned()
                interval_s = variant.pool.config.probe.models_interval_s
                if interval_s and now - asked[id(variant)] >= interval_s and len(variant.pool.available) > 1:
                    asked[id(variant)] = now
                    await self._who_has(variant)
            intervals = [v.pool.config.probe.models_interval_s or math.inf for _, v in variants]
            pause_s = min(_LEARN_PAUSE_S, *intervals)
            if math.isinf(min(intervals)) and all(variant.sequences is not None for _, variant in variants):
                return
            await asyncio.sleep(pause_s * (0.9 + 0.2 * random()))

    @staticmethod
    async def _who_has(variant: VariantRuntime) -> None:
        """Asks all available backends at once; one that does not answer is left to its own probe."""

        async def lacks(backend: BackendRuntime) -> bool:
            try:
                reply = await fetch(backend, b"GET", variant.path + b"/ready", timeout_s=_LEARN_TIMEOUT_S)
            except UnreachableError:
                return False
            return reply.status != 200

        backends = list(variant.pool.available)
        answers = await asyncio.gather(*(lacks(backend) for backend in backends))
        variant.lacking = frozenset(backend for backend, lacking in zip(backends, answers, strict=True) if lacking)

    async def _learn_one(self, variant: VariantRuntime) -> bool:
        """Whether the model's configuration could be read."""
        for backend in variant.pool.available:
            with contextlib.suppress(UnreachableError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
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
