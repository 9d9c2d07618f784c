"""All rollouts of a node: starts them, keeps them going, passes commands on, and keeps their routes to themselves."""

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.controlplane.control import Control
from gateway.controlplane.delivery.digest import Lens
from gateway.controlplane.delivery.effects import Effects
from gateway.controlplane.delivery.feed import Feed, arm_counts
from gateway.controlplane.delivery.record import BASELINE_SUFFIX, Record
from gateway.controlplane.delivery.rollout_store import RolloutStore
from gateway.controlplane.delivery.run import Run
from gateway.core.evidence_counts import NOTHING, ArmCounts
from gateway.core.evidence_state import begin
from gateway.core.gates import judge
from gateway.core.rollout import Command, Decision, Inputs, RolloutState, decide
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.rollout_stages import stages
from gateway.core.route import Predictions, Route, problems
from gateway.core.verdict import Verdict
from gateway.errors import ConfigError, RejectedError, StoreError
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.logs import logger
from gateway.telemetry.records import WorkerReport

_SNAPSHOT_S = 60.0
_SNAPSHOTS = 10
_ANSWER_S = 15.0
_log = logger("delivery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants rolled out.

    Attributes:
        route: the route's name.
        candidate: the variant that shall get the traffic; empty when the route has only one besides the stable one.
        policy: None takes the route's own, or the default one.
        who: wants it.
        why: reason, for the history.
    """

    route: str
    candidate: str = ""
    policy: RolloutPolicy | None = None
    who: str = ""
    why: str = ""


class Rollouts:
    """The service behind the API's rollout endpoints.

    Args:
        control: publishes; its guard is set here.
        store: keeps rollouts.
        effects: acts.
        ledger: counts of the time before a rollout.
        clock: Unix time.
        tick_s: time between two looks at what happened.
        block_s: time between two takings of evidence; no shorter, however often workers report.

    Attributes:
        finished: rollouts that ended since the controller started, by (route, final phase).
    """

    def __init__(
        self,
        control: Control,
        store: RolloutStore,
        effects: Effects,
        ledger: Ledger,
        *,
        clock: Callable[[], float],
        tick_s: float,
        block_s: float,
    ) -> None:
        self.store = store
        self._control = control
        self._effects = effects
        self._ledger = ledger
        self._clock = clock
        self._tick_s = tick_s
        self._block_s = block_s
        self.finished: Counter[tuple[str, str]] = Counter()
        self._runs: dict[str, Run] = {}
        self._wake = asyncio.Event()
        self._starting = asyncio.Lock()
        self._snapshots: deque[tuple[float, dict[tuple[str, str], ArmCounts]]] = deque(maxlen=_SNAPSHOTS)
        control.guard = self._guard

    @property
    def runs(self) -> dict[str, Run]:
        """Running rollouts by route."""
        return self._runs

    def feed(self, route: str) -> Feed | None:
        """The feed of a route's running rollout."""
        run = self._runs.get(route)
        return run.feed if run is not None else None

    def lens(self, route: str) -> Lens:
        """How a route's sampled answers are looked at."""
        config = next((found for found in self._control.current.routes if found.name == route), None)
        run = self._runs.get(route)
        policy = run.record.policy if run is not None else None
        predictions = config.predictions if config is not None else None
        drift = policy.gates.drift if policy is not None else None
        if predictions is None and drift is not None and drift.kind != "score":
            predictions = Predictions(output=drift.output, kind=drift.kind)
        gate = policy.shadow_gate if policy is not None else None
        rules = gate.rules if gate is not None else Lens().rules
        return Lens(predictions=predictions, drift=drift, rules=rules)

    def report(self, report: WorkerReport) -> None:
        """Takes a worker's counts."""
        for run in self._runs.values():
            run.feed.report(report, run.record.shares)

    async def resume(self) -> None:
        """Goes on with every rollout that is not over. Raises StoreError."""
        for record in await self._control.run(self.store.active):
            keys = await self._control.run(self.store.keys, record.id)
            self._runs[record.route] = self._run_of(record, keys)
            _log.info("rollout resumed", rollout=record.id, phase=record.state.phase)

    async def run(self) -> None:
        """Looks at every rollout once per tick, and at once when there is news; until cancelled."""
        loop = asyncio.get_running_loop()
        next_tick = loop.time()
        try:
            while True:
                self._snapshot()
                for run in list(self._runs.values()):
                    await self._look(run)
                next_tick = max(next_tick + self._tick_s, loop.time())
                while (left := next_tick - loop.time()) > 0:
                    try:
                        async with asyncio.timeout(left):
                            await self._wake.wait()
                    except TimeoutError:
                        break
                    self._wake.clear()
                    for run in list(self._runs.values()):
                        await self._look(run)
        finally:
            for run in self._runs.values():
                await run.close()

    async def start(self, wish: Wish, *, dry_run: bool = False) -> Record:
        """Begins a rollout; with `dry_run` only says what it would be, also beside one that is running.

        Raises RejectedError when the route has one or does not exist, ConfigError when the wish contradicts itself.
        """
        async with self._starting:
            record, number = await self._prepare(wish, beside=dry_run)
            if dry_run:
                return record
            await self._control.run(self.store.create, record, number)
            self._runs[record.route] = self._run_of(record, [])
            self._wake.set()
            return record

    async def judge(self, record: Record) -> Verdict | None:
        """What a rollout's policy says to the evidence of its route's running or last rollout of the same variants.

        Judged as at the stage whose share is nearest to the one under which that evidence was collected. None when
        there is none.
        """
        run, last = self._runs.get(record.route), await self._control.run(self.store.latest, record.route, 1)
        found = run.record if run is not None else next(iter(last), None)
        pair = record.state.stable, record.state.candidate
        if found is None or (found.state.stable, found.state.candidate) != pair:
            return None
        seen = stages(found.policy)[found.state.stage]
        stage = min(stages(record.policy), key=lambda stage: abs(stage.weight - seen.weight))
        as_seen = replace(stage, weight=seen.weight, baseline=seen.baseline, shadow=seen.shadow)
        return judge(found.evidence, record.policy, as_seen)

    async def command(
        self, route: str, kind: str, *, who: str, full: bool = False, note: str = "", dry_run: bool = False
    ) -> Decision:
        """Passes a person's command on and waits for the decision; with `dry_run` the one that would be taken now.

        Raises RejectedError when it was, or would be, refused.
        """
        run = self._runs.get(route)
        if run is None:
            raise RejectedError(f"no rollout is running on route {route!r}")
        command = Command(id=secrets.token_hex(8), kind=kind, by=who, full=full, note=note)  # type: ignore[arg-type]
        if dry_run:
            inputs = Inputs(verdict=run.verdict, command=command)
            decision = decide(run.record.state, run.record.policy, inputs, self._clock())
            assert decision is not None, "a new command is obeyed or refused"
        else:
            decision = await self._ask(run, command)
        if decision.event == "refused_command":
            raise RejectedError(decision.reason)
        return decision

    async def _ask(self, run: Run, command: Command) -> Decision:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await run.ask(command)
        except TimeoutError as error:
            raise StoreError("the rollout did not take the command in time; the controller's log says why") from error

    async def _look(self, run: Run) -> None:
        try:
            await run.look()
        except StoreError as error:
            _log.error("a rollout waits for the store", rollout=run.record.id, reason=str(error))
            return
        except Exception as error:  # noqa: BLE001 - one rollout's fault must not stop the others
            _log.error("a rollout could not be judged", rollout=run.record.id, exc_info=error)
            return
        if run.record.state.final:
            await run.close()
            self._runs.pop(run.record.route, None)
            self.finished[run.record.route, run.record.state.phase.value] += 1
            _log.info("rollout over", rollout=run.record.id, phase=run.record.state.phase)

    def _run_of(self, record: Record, keys: list[tuple[str, tuple[int, ...]]]) -> Run:
        return Run(
            record,
            keys,
            store=self.store,
            control=self._control,
            effects=self._effects,
            clock=self._clock,
            block_s=self._block_s,
            wake=self._wake.set,
        )

    async def _prepare(self, wish: Wish, *, beside: bool = False) -> tuple[Record, int]:
        route = next((found for found in self._control.current.routes if found.name == wish.route), None)
        if route is None:
            known = ", ".join(found.name for found in self._control.current.routes) or "none"
            raise RejectedError(f"route {wish.route!r} does not exist (known: {known})")
        running = self._runs.get(wish.route)
        if running is not None and beside:
            route = running.record.original
        elif running is not None:
            state = running.record.state
            raise RejectedError(f"rollout {running.record.id} is on route {wish.route!r} already ({state.phase})")
        policy = wish.policy or route.rollout or RolloutPolicy()
        checked = replace(route, rollout=policy)
        if wrong := problems((checked,), self._control.current.pools):
            raise ConfigError([problem.what for problem in wrong])
        stable = _stable(route)
        candidate = _candidate(route, stable, wish.candidate)
        number = await self._control.run(self.store.next_number)
        name = f"{route.name}.{number}"
        state = RolloutState(
            id=name, route=route.name, stable=stable, candidate=candidate, epoch=route.epoch, since=self._clock()
        )
        evidence = begin(policy, self._history(route.name, stable), sticky=bool(route.sticky_header))
        record = Record(
            id=name,
            created=self._clock(),
            who=wish.who,
            why=wish.why,
            policy=policy,
            original=route,
            state=state,
            evidence=evidence,
        )
        return record, number

    def _counts(self) -> dict[tuple[str, str], ArmCounts]:
        found: dict[tuple[str, str], ArmCounts] = {}
        for report in self._ledger.reports():
            for row in report.variants:
                if not row.pinned:
                    key = row.route, row.variant
                    found[key] = found.get(key, NOTHING).plus(arm_counts(row))
        return found

    def _snapshot(self) -> None:
        now = self._clock()
        if not self._snapshots or now - self._snapshots[-1][0] >= _SNAPSHOT_S:
            self._snapshots.append((now, self._counts()))

    def _history(self, route: str, variant: str) -> ArmCounts:
        """What a variant did in the last minutes; a worker that died since may make that too little, never too much."""
        now = self._counts().get((route, variant), NOTHING)
        before = self._snapshots[0][1].get((route, variant), NOTHING) if self._snapshots else NOTHING
        recent = now.minus(before)
        return recent if recent.assigned >= 0 and all(n >= 0 for n in recent.latency.values()) else now

    def _guard(self, wanted: tuple[Route, ...]) -> tuple[Route, ...]:
        """A file may repeat a route as it was before its rollout, or as it is; anything else has to wait."""
        present = {route.name: route for route in self._control.current.routes}
        by_name = {route.name: route for route in wanted}
        for name, run in self._runs.items():
            current, asked = present[name], by_name.get(name)
            if asked is None or _content(asked) not in {_content(current), _content(run.record.original)}:
                state = run.record.state
                raise RejectedError(
                    f"rollout {run.record.id} has route {name!r} to itself ({state.phase}); "
                    f"end it first: sluice rollout abort {name}"
                )
            by_name[name] = replace(current, rollout=asked.rollout)
        return tuple(by_name[route.name] for route in wanted)


def _content(route: Route) -> Route:
    return replace(route, rollout=None, epoch=0)


def _stable(route: Route) -> str:
    served = [variant for variant in route.variants if variant.weight > 0]
    if len(served) != 1:
        shares = ", ".join(f"{variant.name} {variant.weight:g} %" for variant in served)
        what = f"route {route.name!r} is split already ({shares}); give one variant all traffic first"
        raise RejectedError(what)
    return served[0].name


def _candidate(route: Route, stable: str, wanted: str) -> str:
    others = [v.name for v in route.variants if v.name != stable and not v.name.endswith(BASELINE_SUFFIX)]
    if not wanted:
        if len(others) == 1:
            return others[0]
        choice = f"one of: {', '.join(others)}" if others else "none: add the new version as a variant of weight 0"
        raise RejectedError(f"say which variant of route {route.name!r} is the candidate ({choice})")
    if wanted == stable:
        raise RejectedError(f"variant {wanted!r} has all traffic already")
    if wanted not in others:
        known = ", ".join(others) or "none"
        raise RejectedError(f"route {route.name!r} has no variant {wanted!r} besides the stable one (known: {known})")
    return wanted
