"""Progressive delivery put together: what the controller starts and the API reaches."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass

import httpx
from prometheus_client.core import Metric

from gateway.config import Config
from gateway.controlplane.control import Control
from gateway.controlplane.delivery.calls import Outbox
from gateway.controlplane.delivery.desk import Desk
from gateway.controlplane.delivery.effects import Effects
from gateway.controlplane.delivery.feedback import JoinWindow
from gateway.controlplane.delivery.lifecycle import Lifecycle
from gateway.controlplane.delivery.mend import Mender
from gateway.controlplane.delivery.model_control import ModelControl
from gateway.controlplane.delivery.repository import Repository
from gateway.controlplane.delivery.rollout_store import RolloutStore
from gateway.controlplane.delivery.rollouts import Rollouts
from gateway.errors import StoreError
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.logs import logger
from gateway.telemetry.metrics import DeliverySnapshot, RolloutState, delivery_families

_STORE_DIFFS_S = 1.0
_RESTART_S = 1.0
_TICK_S = 0.1
_log = logger("delivery")


@dataclass(frozen=True, slots=True)
class Delivery:
    """The parts that others need."""

    control: Control
    rollouts: Rollouts
    desk: Desk
    mender: Mender
    outbox: Outbox
    lifecycle: Lifecycle

    def start(self) -> list[asyncio.Task[None]]:
        """Starts everything that runs by itself."""
        self.control.hub.on_report = self.rollouts.report
        self.control.hub.on_samples = self.desk.take
        self.control.prepare = self.mender.prepare
        parts = (self.rollouts.run, self.desk.run, self.mender.run, self.outbox.run, self._keep_diffs)
        return [asyncio.create_task(_again_and_again(part)) for part in parts]

    def families(self) -> Iterator[Metric]:
        """Metrics of all of it."""
        rollouts = []
        for run in self.rollouts.runs.values():
            record, verdict = run.record, run.verdict
            share = record.shares.get(max(record.shares, default=0))
            gates = (
                [(g.gate, g.outcome.value, g.statistic, g.bound, g.effect) for g in verdict.gates] if verdict else []
            )
            rollouts.append(
                RolloutState(
                    route=record.route,
                    candidate=record.state.candidate,
                    phase=record.state.phase.value,
                    stage=record.state.stage,
                    weight=share.candidate if share else 0.0,
                    candidate_samples=record.evidence.candidate.assigned,
                    gates=gates,
                )
            )
        snapshot = DeliverySnapshot(
            routes=[route.name for route in self.control.current.routes],
            rollouts=rollouts,
            finished=self.rollouts.finished,
            accuracy=self.desk.accuracy,
            compared=self.desk.compared,
            samples=self.desk.counts,
            missing=[(m.pool, m.url, m.model, m.version, m.state) for m in self.mender.found],
            mended=self.mender.mended,
            events={
                "delivered": self.outbox.delivered,
                "failed_attempt": self.outbox.failed_attempts,
                "given_up": self.outbox.given_up,
            },
        )
        return delivery_families(snapshot)

    async def _keep_diffs(self) -> None:
        """Stores the differences that shadows showed."""
        while True:
            await asyncio.sleep(_STORE_DIFFS_S)
            fresh = [self.desk.diffs.popleft() for _ in range(len(self.desk.diffs))]
            if not fresh:
                continue
            try:
                await self.control.run(self.rollouts.store.add_diffs, fresh)
            except StoreError as error:
                _log.error("differences of shadows could not be stored", reason=str(error))


async def _again_and_again(part: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs a part until it ends by itself or is cancelled; an unforeseen error is logged, and it starts anew."""
    while True:
        try:
            await part()
        except Exception as error:  # noqa: BLE001 - whatever it was, the other rollouts go on
            _log.error("a part of delivery failed and starts again", part=part.__qualname__, exc_info=error)
            await asyncio.sleep(_RESTART_S)
        else:
            return


def build(
    control: Control, ledger: Ledger, client: httpx.AsyncClient, config: Config, *, clock: Callable[[], float]
) -> Delivery:
    """Everything, with nothing started."""
    settings = config.delivery
    repository = Repository(client, ModelControl(lambda: control.current.pools))
    outbox = Outbox(control, client, settings.webhooks, clock)
    lifecycle = Lifecycle(repository)
    effects = Effects(control, lifecycle, outbox, client, clock)
    store = RolloutStore(control.store)
    rollouts = Rollouts(
        control,
        store,
        effects,
        ledger,
        clock=clock,
        tick_s=min(config.report_interval_s, _TICK_S),
        block_s=settings.block_s,
    )
    window = JoinWindow(settings.join_window_s, settings.join_max)
    desk = Desk(rollouts.lens, rollouts.feed, window, clock)
    mender = Mender(control, repository, interval_s=settings.mend_interval_s, clock=clock)
    return Delivery(control, rollouts, desk, mender, outbox, lifecycle)
