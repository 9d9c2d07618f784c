"""The rollout's state machine: phase x event -> phase and actions. It also draws its own diagram."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """Where a rollout stands."""

    PENDING = "pending"
    LOADING = "loading"
    WARMING = "warming"
    ENTERING = "entering"
    JUDGING = "judging"
    HELD = "held"
    FROZEN = "frozen"
    PAUSED = "paused"
    AWAITING = "awaiting"
    PROMOTING = "promoting"
    WINDOW = "window"
    RETIRING = "retiring"
    CLOSING = "closing"
    ABORTING = "aborting"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


FINAL: Final = frozenset({Phase.COMPLETED, Phase.ABORTED, Phase.ROLLED_BACK})
STAGED: Final = frozenset({Phase.JUDGING, Phase.HELD, Phase.FROZEN, Phase.PAUSED, Phase.AWAITING})
"""Phases in which the candidate holds its stage's share and is judged."""


class Event(StrEnum):
    """What can happen to it; `core.rollout` classifies every input as at most one of these."""

    START = "start"
    DONE = "done"  # every effect of the last decision is confirmed
    REFUSED = "refused"  # a load, a warm-up or a blocking hook failed
    EXPIRED = "expired"  # loading or warming took too long
    PASSED = "passed"
    PASSED_LAST = "passed_last"
    PASSED_PAUSE = "passed_pause"
    STALLED = "stalled"  # minimum time over without a pass
    HOLD_EXPIRED = "hold_expired"
    FAILED = "failed"
    FAILED_FREEZE = "failed_freeze"  # failed, and the policy says to hold
    FINISHED = "finished"  # a report-only strategy reached its end
    WINDOW_OVER = "window_over"
    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    APPROVE_LAST = "approve_last"
    PROMOTE = "promote"  # by a person, ahead of the evidence
    ABORT = "abort"
    ROLLBACK = "rollback"


class Action(StrEnum):
    """What a transition does, in order; `core.rollout` turns each into effects."""

    LOAD = "load candidate"
    WARM = "warm candidate"
    UNLOAD_CANDIDATE = "unload candidate"
    UNLOAD_OLD = "unload old version"
    NEXT_STAGE = "next stage"
    STAGE_WEIGHTS = "set stage weights"
    STABLE_WEIGHTS = "all traffic to stable"
    CANDIDATE_WEIGHTS = "all traffic to candidate"
    HOOK_PRE_ROLLOUT = "hook pre_rollout"
    HOOK_PRE_STEP = "hook pre_step"
    HOOK_POST_STEP = "hook post_step"
    HOOK_CONFIRM_PROMOTION = "hook confirm_promotion"
    HOOK_POST_PROMOTION = "hook post_promotion"
    HOOK_ON_ABORT = "hook on_abort"
    HOOK_ON_ROLLBACK = "hook on_rollback"
    EMIT = "emit"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row's right-hand side: the phase to go to, the actions in order, and the event told to the outside."""

    to: Phase
    actions: tuple[Action, ...] = ()
    emit: str = ""


_ENTER = (Action.HOOK_PRE_STEP, Action.STAGE_WEIGHTS, Action.EMIT)
_NEXT = Transition(Phase.ENTERING, (Action.HOOK_POST_STEP, Action.NEXT_STAGE, *_ENTER), "step")
_PROMOTE = Transition(
    Phase.PROMOTING,
    (
        Action.HOOK_POST_STEP,
        Action.HOOK_CONFIRM_PROMOTION,
        Action.CANDIDATE_WEIGHTS,
        Action.HOOK_POST_PROMOTION,
        Action.EMIT,
    ),
    "promote",
)
_ABORT = Transition(
    Phase.ABORTING,
    (Action.STABLE_WEIGHTS, Action.EMIT, Action.HOOK_ON_ABORT, Action.UNLOAD_CANDIDATE),
    "abort",
)
_ROLLBACK = Transition(
    Phase.ROLLING_BACK,
    (Action.STABLE_WEIGHTS, Action.EMIT, Action.HOOK_ON_ROLLBACK, Action.UNLOAD_CANDIDATE),
    "rollback",
)
_FREEZE = Transition(Phase.FROZEN, (Action.EMIT,), "hold")
_PAUSE = Transition(Phase.PAUSED, (Action.EMIT,), "pause")
_CLOSE = Transition(Phase.CLOSING, (Action.STABLE_WEIGHTS, Action.UNLOAD_CANDIDATE, Action.EMIT), "finish")


def _rows() -> dict[tuple[Phase, Event], Transition]:
    p, e = Phase, Event
    rows = {
        (p.PENDING, e.START): Transition(p.LOADING, (Action.EMIT, Action.LOAD), "start"),
        (p.LOADING, e.DONE): Transition(p.WARMING, (Action.WARM,)),
        (p.WARMING, e.DONE): Transition(p.ENTERING, (Action.HOOK_PRE_ROLLOUT, *_ENTER), "step"),
        (p.ENTERING, e.DONE): Transition(p.JUDGING),
        (p.JUDGING, e.STALLED): Transition(p.HELD, (Action.EMIT,), "hold"),
        (p.HELD, e.HOLD_EXPIRED): _ABORT,
        (p.PAUSED, e.RESUME): Transition(p.JUDGING, (Action.EMIT,), "resume"),
        (p.FROZEN, e.RESUME): Transition(p.JUDGING, (Action.EMIT,), "resume"),
        (p.AWAITING, e.APPROVE): _NEXT,
        (p.AWAITING, e.APPROVE_LAST): _PROMOTE,
        (p.PROMOTING, e.DONE): Transition(p.WINDOW),
        (p.WINDOW, e.WINDOW_OVER): Transition(p.RETIRING, (Action.UNLOAD_OLD, Action.EMIT), "complete"),
        (p.WINDOW, e.FAILED): _ROLLBACK,
        (p.WINDOW, e.ROLLBACK): _ROLLBACK,
        (p.WINDOW, e.ABORT): _ROLLBACK,
        (p.RETIRING, e.DONE): Transition(p.COMPLETED),
        (p.CLOSING, e.DONE): Transition(p.COMPLETED),
        (p.ABORTING, e.DONE): Transition(p.ABORTED),
        (p.ROLLING_BACK, e.DONE): Transition(p.ROLLED_BACK),
    }
    for phase in (p.LOADING, p.WARMING, p.ENTERING, p.PROMOTING):
        rows[phase, e.REFUSED] = _ABORT
    for phase in (p.LOADING, p.WARMING):
        rows[phase, e.EXPIRED] = _ABORT
    for phase in (p.JUDGING, p.HELD):
        rows[phase, e.PASSED] = _NEXT
        rows[phase, e.PASSED_LAST] = _PROMOTE
        rows[phase, e.PASSED_PAUSE] = Transition(p.AWAITING, (Action.EMIT,), "await_approval")
        rows[phase, e.FINISHED] = _CLOSE
        rows[phase, e.PAUSE] = _PAUSE
    for phase in STAGED:
        rows[phase, e.PROMOTE] = _PROMOTE
    for phase in STAGED - {p.FROZEN}:
        rows[phase, e.FAILED] = _ABORT
        rows[phase, e.FAILED_FREEZE] = _FREEZE
    for phase in (p.PENDING, p.LOADING, p.WARMING, p.ENTERING, p.PROMOTING, *STAGED):
        rows[phase, e.ABORT] = _ABORT
        rows[phase, e.ROLLBACK] = _ABORT
    return rows


TABLE: Final = _rows()


def mermaid() -> str:
    """The table as a Mermaid state diagram, rows in a fixed order; docs/delivery.md carries it."""
    arrows: dict[tuple[Phase, Phase], list[Event]] = {}
    for (phase, event), transition in TABLE.items():
        arrows.setdefault((phase, transition.to), []).append(event)
    order = list(Phase)
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.PENDING}"]
    for (source, target), names in sorted(arrows.items(), key=lambda item: tuple(map(order.index, item[0]))):
        lines.append(f"    {source} --> {target}: {', '.join(event for event in Event if event in names)}")
    lines += [f"    {phase} --> [*]" for phase in order if phase in FINAL]
    return "\n".join(lines) + "\n"
