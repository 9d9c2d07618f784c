"""Delivery's real parts without processes, on a virtual clock: the test is the controller's loop."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.config import Config
from gateway.controlplane.control import Control
from gateway.controlplane.delivery import wiring
from gateway.controlplane.delivery.rollouts import Wish
from gateway.controlplane.delivery.run import Run
from gateway.controlplane.fleet import Fleet
from gateway.controlplane.hub import Hub
from gateway.controlplane.store import Store
from gateway.core.pool import Backend, Pool
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.route import Route, Variant
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.records import Outcome, VariantCounts, WorkerReport


@dataclass
class Clock:
    """Unix time as the test wants it."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        """What time it is."""
        return self.now


@dataclass
class Plane:
    """The parts, and one rollout of route `r` from `old` to `new`.

    Attributes:
        clock: moved by the test.
        delivery: as the controller builds it; nothing of it runs by itself.
        counts: what the one pretended worker has counted, by (variant, epoch).
    """

    clock: Clock
    delivery: wiring.Delivery
    counts: dict[tuple[str, int], VariantCounts] = field(default_factory=dict)

    async def start(self, policy: RolloutPolicy) -> Run:
        """Starts a rollout."""
        await self.delivery.rollouts.start(Wish(route="r", policy=policy))
        return self.delivery.rollouts.runs["r"]

    async def begin(self, policy: RolloutPolicy) -> Run:
        """Starts a rollout and looks until it is judged."""
        run = await self.start(policy)
        await self.look_until(run, lambda: run.record.state.phase.value == "judging")
        return run

    async def look_until(self, run: Run, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        """Looks, time standing still, until what was decided has been done."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {run.record.state}"
            await run.look()
            await asyncio.sleep(0.005)

    def count(self, run: Run, variant: str, requests: int, bad: int = 0) -> None:
        """The worker serves requests under the present epoch and reports all its counts."""
        epoch = run.record.state.epoch
        row = self.counts.setdefault((variant, epoch), VariantCounts(route="r", variant=variant, epoch=epoch))
        row.assigned += requests
        row.outcomes[Outcome.OK] += requests - bad
        row.outcomes[Outcome.UPSTREAM_ERROR] += bad
        run.feed.report(report(list(self.counts.values())), run.record.shares)


def report(variants: list[VariantCounts]) -> WorkerReport:
    """A worker's report of these counts."""
    numbers = ("worker", "pid", "generation", "connections", "accepted", "in_flight", "buffered_bytes", "retries",
               "rss_bytes", "uptime_s")  # fmt: skip
    empty = ("new_keys", "shadows", "backends", "faults")
    fixed = {"incarnation": "one", "draining": False, "variants": variants}
    return WorkerReport(**dict.fromkeys(numbers, 0), **{name: [] for name in empty}, **fixed)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def plane(place: Path, url: str, *, grpc_port: int = 0, **delivery: Any) -> AsyncIterator[Plane]:
    """Everything, with route `r` on the backend at `url`; settings of delivery as keywords."""
    clock, ledger = Clock(), Ledger()
    pools = (Pool(name="default", backends=(Backend(url=url, grpc_port=grpc_port),)),)
    variants = (Variant(name="old", model="m", version="1", weight=100.0), Variant(name="new", model="m", version="2"))
    config = msgspec.convert({"state_dir": str(place), "delivery": delivery}, Config)
    store = Store("", place)
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            hub = Hub(ledger, time.monotonic)
            control = Control(
                store, hub, Fleet(client), ledger, table_path=place / "table", pools=pools, clock=clock
            )  # fmt: skip
            await control.start((Route(name="r", variants=variants),))
            found = Plane(clock, wiring.build(control, ledger, client, config, clock=clock))
            yield found
            for run in found.delivery.rollouts.runs.values():
                await run.close()
    finally:
        store.close()
