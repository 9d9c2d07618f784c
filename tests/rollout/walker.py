"""A controller reduced to its duties: stores each decision, executes effects in order, and can be killed anywhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from gateway.core.rollout import Command, Decision, Effect, EffectResult, Inputs, RolloutState, decide
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.verdict import Outcome, Verdict


class KilledError(Exception):
    """The controller process is gone; only what was stored and what the world saw remain."""


def verdict(outcome: Outcome, reason: str = "because") -> Verdict:
    return Verdict(outcome=outcome, reason=reason, samples=1000)


def fresh(**more: object) -> RolloutState:
    return RolloutState(id="r1", route="digits", stable="v1", candidate="v2", epoch=7, **more)  # type: ignore[arg-type]


@dataclass
class World:
    """What outlives a controller: the store, and what effects did, by id, in the order of first execution."""

    stored: bytes
    log: list[bytes] = field(default_factory=list)
    done: dict[str, Effect] = field(default_factory=dict)
    executions: int = 0
    now: float = 0.0

    @property
    def state(self) -> RolloutState:
        """What is stored."""
        return msgspec.json.decode(self.stored, type=RolloutState)

    def save(self, decision: Decision) -> None:
        """Stores a decision, as the controller does before acting."""
        self.stored = msgspec.json.encode(decision.state)
        self.log.append(msgspec.json.encode(decision))

    def decisions(self) -> list[Decision]:
        """Every decision stored, in order."""
        return [msgspec.json.decode(line, type=Decision) for line in self.log]

    def weights(self) -> list[float]:
        """The candidate's shares, in the order they were first set."""
        return [effect.candidate for effect in self.done.values() if effect.kind == "weights"]

    def kinds(self) -> list[str]:
        """What was done, in order: events, hooks' phases, loads and unloads."""
        return [
            effect.event or (effect.hook.phase if effect.hook else "") or f"{effect.kind} {effect.variant}".strip()
            for effect in self.done.values()
        ]


def world(state: RolloutState | None = None) -> World:
    return World(stored=msgspec.json.encode(state or fresh()))


Judge = Callable[[RolloutState, float], Verdict | None]
Answer = Callable[[Effect], EffectResult | None]


def always(outcome: Outcome) -> Judge:
    return lambda state, now: verdict(outcome)


def confirm(effect: Effect) -> EffectResult:
    return EffectResult(id=effect.id)


def run(
    to: World,
    policy: RolloutPolicy,
    judge: Judge,
    *,
    seconds: int,
    answer: Answer = confirm,
    commands: dict[int, Command] | None = None,
    killer: Iterator[bool] | None = None,
) -> World:
    """Runs until the rollout ends or the seconds are over; `killer` says at each step whether to die there."""
    end = to.now + seconds

    def maybe_die() -> None:
        if killer is not None and next(killer, False):
            raise KilledError

    while to.now < end:
        state = to.state
        if state.final:
            return to
        results: list[EffectResult] = []
        for effect in state.outstanding:
            maybe_die()
            result = answer(effect)
            if result is None:
                break
            to.executions += 1
            to.done.setdefault(effect.id, effect)
            results.append(result)
            maybe_die()
            if not result.ok:
                break
        command = (commands or {}).get(int(to.now))
        inputs = Inputs(results=tuple(results), verdict=judge(state, to.now), command=command)
        decision = decide(state, policy, inputs, to.now)
        maybe_die()
        if decision is not None:
            to.save(decision)
            maybe_die()
        to.now += 1.0
    return to
