"""One running rollout: read what was observed, decide, persist, act - in this order, however often it is killed."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.controlplane.control import Control
from gateway.controlplane.delivery.effects import Effects
from gateway.controlplane.delivery.feed import Feed, Reported
from gateway.controlplane.delivery.record import Record
from gateway.controlplane.delivery.rollout_store import Keys, RolloutStore
from gateway.core.evidence_state import absorb
from gateway.core.gates import judge
from gateway.core.rollout import Command, Decision, Effect, EffectResult, Inputs, current_stage, decide
from gateway.core.rollout_table import Phase
from gateway.core.route import Route
from gateway.core.verdict import Verdict
from gateway.telemetry.logs import logger

_CONFIRMATIONS = frozenset({"acknowledged", "done", "refused_command"})
# What comes in later than the last decision on evidence must not take the place of what that decision rests on.
_ENDING = frozenset({Phase.ABORTING, Phase.ROLLING_BACK, Phase.CLOSING, Phase.RETIRING})
_log = logger("delivery")


@dataclass(slots=True)
class _Asked:
    command: Command
    answer: asyncio.Future[Decision]


class Run:
    """A rollout in the memory of the controller.

    Args:
        record: as stored.
        keys: sticky keys counted before.
        store: where decisions go before they are acted on.
        control: the store's thread and the published table.
        effects: does what was decided.
        clock: Unix time.
        block_s: what is observed within so long makes one block of evidence.
        wake: called when there is something new to decide on.

    Attributes:
        record: the last stored state, with evidence that may be newer.
        verdict: the gates' last answer.
        feed: collects observations until the next look.
    """

    def __init__(
        self,
        record: Record,
        keys: list[Keys],
        *,
        store: RolloutStore,
        control: Control,
        effects: Effects,
        clock: Callable[[], float],
        block_s: float,
        wake: Callable[[], None],
    ) -> None:
        self.record = record
        self.verdict: Verdict | None = None
        self.feed = Feed(record, keys)
        self._store = store
        self._control = control
        self._effects = effects
        self._clock = clock
        self._block_s = block_s
        self._block_began = clock()
        self._wake = wake
        self._lock = asyncio.Lock()
        self._asked: deque[_Asked] = deque(maxlen=100)
        self._results: list[EffectResult] = []
        self._keys: list[Keys] = []
        self._doing: tuple[str, asyncio.Task[None]] | None = None

    def ask(self, command: Command) -> asyncio.Future[Decision]:
        """Queues a person's command; the future holds the decision that obeyed or refused it."""
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(command, answer))
        self._wake()
        return answer

    async def look(self) -> None:
        """Takes in what was observed, decides as long as there is something to decide, and acts. Raises StoreError."""
        async with self._lock:
            now = self._clock()
            # No block is shorter, whatever woke the rollout: what the tests take for one cause must not be cut up.
            full = not 0.0 <= now - self._block_began < self._block_s and self.record.state.phase not in _ENDING
            if full:
                self._absorb(now)
            asked = self._asked[0] if self._asked else None
            if asked is None and self._unjudged:
                return
            inputs = Inputs(
                results=tuple(self._results), verdict=self.verdict, command=asked.command if asked else None
            )
            decision = decide(self.record.state, self.record.policy, inputs, now)
            if decision is None:
                if full:
                    await self._save(self.record, None)
            elif asked is not None and decision.state.command == asked.command.id:
                await self._decided(decision)
                self._asked.popleft()
                if not asked.answer.done():
                    asked.answer.set_result(decision)
            else:
                await self._decided(decision)
            self._results = [r for r in self._results if r.id in {e.id for e in self.record.state.outstanding}]
            while decision is not None and not self.record.state.final and not self._unjudged:
                decision = decide(self.record.state, self.record.policy, Inputs(verdict=self.verdict), self._clock())
                if decision is not None:
                    await self._decided(decision)
        self._act()
        if self._asked:
            self._wake()

    @property
    def _unjudged(self) -> bool:
        """Whether the first block of the running stage is still to come: no data yet is no reason to hold."""
        return self.record.state.phase is Phase.JUDGING and self.verdict is None

    async def close(self) -> None:
        """Stops acting; what was decided stays stored."""
        if self._doing is not None:
            self._doing[1].cancel()
            await asyncio.gather(self._doing[1], return_exceptions=True)

    def _absorb(self, now: float) -> None:
        self._block_began = now
        blocks, reported = self.feed.take(self.record)
        evidence = self.record.evidence
        for block in blocks:
            evidence = absorb(evidence, block, self.record.policy)
        self.record = replace(self.record, evidence=evidence, marks=self.feed.marks())
        self._keys += [(check, hashes) for check, _, hashes in _counted(reported)]
        stage = current_stage(self.record.state, self.record.policy)
        self.verdict = judge(evidence, self.record.policy, stage) if stage is not None else None

    async def _decided(self, decision: Decision) -> None:
        because = self.record.because if decision.event in _CONFIRMATIONS else decision.reason
        record = replace(self.record, state=decision.state, because=because)
        if record.state.final:
            await self._tidy(record)
        policy = record.policy
        moved = current_stage(self.record.state, policy) != current_stage(record.state, policy)
        await self._save(record, decision)
        if moved:  # what was found under other shares is no verdict on these; their first block begins now
            self.verdict, self._block_began = None, self._clock()

    async def _save(self, record: Record, decision: Decision | None) -> None:
        keys, self._keys = self._keys, []
        try:
            await self._control.run(self._store.save, record, self._clock(), decision, keys)
        except BaseException:
            self._keys = keys + self._keys
            raise
        self.record = record

    async def _tidy(self, record: Record) -> None:
        """A route that is judged no more needs no evidence. Before the end is stored, so that a crash repeats it."""

        def edit(route: Route) -> Route:
            return replace(route, evidence=record.original.evidence)

        await self._control.change_route(record.route, edit, who="rollout", why=f"{record.id}: over")

    async def _update(self, change: Callable[[Record], Record]) -> Record:
        async with self._lock:
            await self._save(change(self.record), None)
            return self.record

    def _act(self) -> None:
        """Keeps the first outstanding effect under way, and nothing that is not outstanding any more."""
        outstanding = self.record.state.outstanding
        if self._doing is not None:
            doing, task = self._doing
            if doing not in {effect.id for effect in outstanding}:
                task.cancel()
                self._doing = None
            elif not task.done():
                return
            elif (error := task.exception()) is not None:
                _log.error("an effect ended in an error and is tried again", effect=doing, exc_info=error)
        if any(effect.id == result.id for result in self._results for effect in outstanding):
            return  # the next look settles it first
        if outstanding:
            effect = outstanding[0]
            self._doing = effect.id, asyncio.create_task(self._do(effect))

    async def _do(self, effect: Effect) -> None:
        result = await self._effects.execute(effect, self.record, self._update)
        self._results.append(result)
        self._wake()


def _counted(reported: list[Reported]) -> list[Reported]:
    return [entry for entry in reported if entry[2]]
