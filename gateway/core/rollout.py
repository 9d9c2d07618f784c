"""One rollout's next decision, from its stored state, what was observed, and the time. Pure.

The caller (the controller) stores a decision before it acts on it, executes the state's outstanding effects in order
and one after the other, and reports each result by id. Effects are idempotent: after a crash the caller starts again
with the outstanding effects of the stored state, so that no step is repeated and none is skipped.
"""

from dataclasses import dataclass, replace
from typing import Literal

from gateway.core.rollout_policy import Hook, HookPhase, RolloutPolicy
from gateway.core.rollout_stages import Stage, stages
from gateway.core.rollout_table import FINAL, STAGED, TABLE, Action, Event, Phase
from gateway.core.verdict import Outcome, Verdict

_BLOCKING = frozenset({"pre_rollout", "pre_step", "post_step", "confirm_promotion"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Something for the caller to do exactly once in effect: doing it again under the same id changes nothing.

    Attributes:
        id: `<rollout>/<seq>/<index>`; send it with a hook as the idempotency key.
        kind: load, warm and unload act on `variant` over its pool; weights publishes shares; hook calls `hook`;
            event tells the outside `event`.
        variant: of load, warm, unload.
        quorum: of load and warm: part of the backends that must succeed.
        candidate: of weights: the candidate's share in per cent.
        baseline: of weights: the equal arm's share; the stable variant has the rest.
        shadow: of weights: share of the requests mirrored to the candidate.
        epoch: of weights: number under which evidence is counted from then on.
        hook: of hook.
        event: of event.
    """

    id: str
    kind: Literal["load", "warm", "unload", "weights", "hook", "event"]
    variant: str = ""
    quorum: float = 1.0
    candidate: float = 0.0
    baseline: float = 0.0
    shadow: float = 0.0
    epoch: int = 0
    hook: Hook | None = None
    event: str = ""

    @property
    def blocking(self) -> bool:
        """Whether its refusal stops the rollout (otherwise it is only recorded)."""
        return self.kind in {"load", "warm"} or (self.hook is not None and self.hook.phase in _BLOCKING)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectResult:
    """How an effect ended; `ok` False is a refusal. Failures that may pass are the caller's to retry, not to report."""

    id: str
    ok: bool = True
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a person asked for. `full`: promote at once although the evidence is not complete."""

    id: str
    kind: Literal["pause", "resume", "promote", "abort", "rollback"]
    by: str
    full: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """All that is known of one rollout; storing it is enough to go on after a crash.

    Attributes:
        id: unique.
        route: the route's name.
        stable: name of the variant that has the traffic.
        candidate: name of the variant that shall get it.
        phase: where it stands.
        stage: index into `stages(policy)`.
        seq: number of the last decision.
        epoch: of the last weights effect; starts at the route's own.
        since: time of the last change of phase.
        entered: time at which the stage's weights were confirmed.
        held: time from which `max_hold_s` runs.
        outstanding: effects not yet confirmed, in order.
        reason: why it stands there.
        command: id of the last command obeyed or refused; the same command is not obeyed twice.
    """

    id: str
    route: str
    stable: str
    candidate: str
    phase: Phase = Phase.PENDING
    stage: int = 0
    seq: int = 0
    epoch: int = 0
    since: float = 0.0
    entered: float = 0.0
    held: float = 0.0
    outstanding: tuple[Effect, ...] = ()
    reason: str = ""
    command: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing more can happen."""
        return self.phase in FINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was observed since the last look: effects that ended, the gates' verdict, at most one command."""

    results: tuple[EffectResult, ...] = ()
    verdict: Verdict | None = None
    command: Command | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision, to be stored with its reason before anything is done about it.

    Attributes:
        seq: ascending by one within a rollout.
        at: time of the decision.
        event: what made it; `acknowledged` when effects were confirmed, `refused_command` when a command did not fit.
        before: phase before.
        state: state after; its `outstanding` are the effects to execute.
        reason: one sentence for people.
        verdict: the evidence it rests on.
    """

    seq: int
    at: float
    event: str
    before: Phase
    state: RolloutState
    reason: str
    verdict: Verdict | None = None

    @property
    def effects(self) -> tuple[Effect, ...]:
        """What is to be executed now, in order."""
        return self.state.outstanding


def current_stage(state: RolloutState, policy: RolloutPolicy) -> Stage | None:
    """The stage whose shares are in force; after promotion one with all traffic on the candidate; else None."""
    if state.phase in STAGED:
        return stages(policy)[state.stage]
    if state.phase is Phase.WINDOW:
        return Stage(name="rollback window", weight=100.0)
    return None


def next_decision_at(state: RolloutState, policy: RolloutPolicy) -> float | None:
    """The next time at which the clock alone can change something; None when it cannot."""
    stage = stages(policy)[state.stage]
    match state.phase:
        case Phase.LOADING:
            return state.since + policy.load_timeout_s
        case Phase.WARMING:
            return state.since + policy.warm_timeout_s
        case Phase.JUDGING if stage.end == "advance":
            return state.entered + stage.min_time_s
        case Phase.JUDGING if stage.end == "finish":
            return state.entered + stage.max_time_s
        case Phase.HELD if policy.on_hold_timeout == "abort":
            return state.held + policy.max_hold_s
        case Phase.WINDOW:
            return state.since + policy.rollback_window_s
    return None


def decide(state: RolloutState, policy: RolloutPolicy, inputs: Inputs, now: float) -> Decision | None:
    """The next decision, or None when nothing changes. Times are seconds of one clock that may jump, not run back.

    One call makes one decision; a caller that gets one calls again, without the results, until it gets None. A command
    is given again until the state names its id: then it was obeyed, or refused with a reason. An effect that is under
    way but no longer outstanding is to be cancelled.
    """
    if state.final:
        return None
    state, acknowledged, refusal = _settle(state, inputs.results)
    found = _classify(state, policy, inputs, now, refusal)
    if found is None:
        if inputs.command is not None and inputs.command.id != state.command:
            reason = f"{inputs.command.kind} by {inputs.command.by} does not fit phase {state.phase}"
            if stages(policy)[state.stage].end == "finish" and inputs.command.kind == "promote":
                reason = f"strategy {policy.strategy} ends with a report and promotes nothing; start a canary for that"
            elif inputs.command.kind == "promote" and not inputs.command.full:
                reason += "; nothing waits for approval (promote in full to go ahead of the evidence)"
            return _record(state, state.phase, "refused_command", reason, now, command=inputs.command.id)
        if acknowledged:
            return _record(state, state.phase, "acknowledged", ", ".join(acknowledged), now)
        return None
    event, reason = found
    command = inputs.command.id if inputs.command is not None and event.value in _COMMANDED else state.command
    verdict = inputs.verdict if state.phase in STAGED or state.phase is Phase.WINDOW else None
    return _take(state, policy, event=event, reason=reason, now=now, command=command, verdict=verdict)


_COMMANDED = frozenset({"pause", "resume", "approve", "approve_last", "promote", "abort", "rollback"})


def _settle(state: RolloutState, results: tuple[EffectResult, ...]) -> tuple[RolloutState, list[str], str]:
    by_id = {result.id: result for result in results}
    left: list[Effect] = []
    acknowledged: list[str] = []
    refusal = ""
    for effect in state.outstanding:
        result = by_id.get(effect.id)
        if result is None:
            left.append(effect)
            continue
        what = effect.hook.phase if effect.hook else effect.event or effect.variant or "weights"
        detail = f": {result.detail}" if result.detail else ""
        acknowledged.append(f"{effect.kind} {what} {'done' if result.ok else 'refused'}{detail}")
        if not result.ok and effect.blocking and not refusal:
            refusal = acknowledged[-1]
    return (replace(state, outstanding=tuple(left)) if acknowledged else state), acknowledged, refusal


def _classify(
    state: RolloutState, policy: RolloutPolicy, inputs: Inputs, now: float, refusal: str
) -> tuple[Event, str] | None:
    """The one event to take: a person's word first, then protection, then progress."""
    if state.phase is Phase.PENDING and inputs.command is None:
        return Event.START, "rollout started"
    commanded = _classify_command(state, policy, inputs.command)
    if commanded is not None:
        return commanded
    if refusal and (state.phase, Event.REFUSED) in TABLE:
        return Event.REFUSED, refusal
    if state.phase is Phase.LOADING and now - state.since >= policy.load_timeout_s and state.outstanding:
        return Event.EXPIRED, f"not loaded on the quorum within {policy.load_timeout_s:g} s"
    if state.phase is Phase.WARMING and now - state.since >= policy.warm_timeout_s and state.outstanding:
        return Event.EXPIRED, f"not warm on the quorum within {policy.warm_timeout_s:g} s"
    if state.phase in STAGED or state.phase is Phase.WINDOW:
        return _classify_evidence(state, policy, inputs.verdict, now)
    if not state.outstanding and (state.phase, Event.DONE) in TABLE:
        return Event.DONE, "all confirmed"
    return None


def _classify_command(state: RolloutState, policy: RolloutPolicy, command: Command | None) -> tuple[Event, str] | None:
    if command is None or command.id == state.command:
        return None
    event = Event(command.kind)
    if command.kind == "promote" and not command.full:
        event = Event.APPROVE_LAST if state.stage + 1 == len(stages(policy)) else Event.APPROVE
    if (state.phase, event) not in TABLE:
        return None
    if event is Event.PROMOTE and stages(policy)[state.stage].end == "finish":
        return None  # a strategy that reports
    return event, f"{command.kind}{' in full' if command.full else ''} by {command.by}" + (
        f": {command.note}" if command.note else ""
    )


def _classify_evidence(
    state: RolloutState, policy: RolloutPolicy, verdict: Verdict | None, now: float
) -> tuple[Event, str] | None:
    outcome = verdict.outcome if verdict is not None else Outcome.NO_DATA
    reason = verdict.reason if verdict is not None else "no evidence has been judged"
    if outcome is Outcome.FAIL:
        event = Event.FAILED if policy.on_fail == "abort" else Event.FAILED_FREEZE
        return (event, reason) if (state.phase, event) in TABLE else None
    if state.phase is Phase.WINDOW:
        over = now - state.since >= policy.rollback_window_s and not state.outstanding
        return (Event.WINDOW_OVER, "rollback window is over") if over else None
    if state.phase not in {Phase.JUDGING, Phase.HELD}:
        return None
    stage = stages(policy)[state.stage]
    spent = now - state.entered
    if stage.end == "finish":
        told = f"{stage.max_time_s:g} s are over ({outcome}: {reason})"
        return (Event.FINISHED, told) if spent >= stage.max_time_s else None
    if stage.end == "stay" or spent < stage.min_time_s:
        return None
    if outcome is Outcome.PASS:
        if stage.pause:
            return Event.PASSED_PAUSE, reason
        return (Event.PASSED_LAST if state.stage + 1 == len(stages(policy)) else Event.PASSED), reason
    if state.phase is Phase.JUDGING:
        return Event.STALLED, f"{outcome}: {reason}"
    if policy.on_hold_timeout == "abort" and now - state.held >= policy.max_hold_s:
        return Event.HOLD_EXPIRED, f"held for {policy.max_hold_s:g} s ({outcome}: {reason})"
    return None


def _take(
    state: RolloutState,
    policy: RolloutPolicy,
    *,
    event: Event,
    reason: str,
    now: float,
    command: str,
    verdict: Verdict | None,
) -> Decision:
    transition = TABLE[state.phase, event]
    after = replace(
        state,
        phase=transition.to,
        since=now,
        entered=now if (state.phase, event) == (Phase.ENTERING, Event.DONE) else state.entered,
        held=now if transition.to is Phase.HELD else state.held,
        stage=state.stage + (Action.NEXT_STAGE in transition.actions),
    )
    effects: list[Effect] = []
    for action in transition.actions:
        effects += _effects(after, policy, action, transition.emit)
    numbered = tuple(replace(effect, id=f"{state.id}/{state.seq + 1}/{i}") for i, effect in enumerate(effects))
    epoch = max((effect.epoch for effect in numbered), default=0) or state.epoch
    # A new direction drops what the old one had not finished: after an abort no weights of a step may follow.
    # What the outside was to be told it is told, but after the more urgent.
    untold = tuple(effect for effect in state.outstanding if effect.kind == "event")
    after = replace(after, outstanding=numbered + untold, epoch=epoch)
    return _record(after, state.phase, event.value, reason, now, command=command, verdict=verdict)


def _effects(after: RolloutState, policy: RolloutPolicy, action: Action, emit: str) -> list[Effect]:
    stage = stages(policy)[after.stage]
    weights = Effect(id="", kind="weights", epoch=after.epoch + 1)
    match action:
        case Action.LOAD:
            return [Effect(id="", kind="load", variant=after.candidate, quorum=policy.warm_quorum)]
        case Action.WARM:
            return [Effect(id="", kind="warm", variant=after.candidate, quorum=policy.warm_quorum)]
        case Action.UNLOAD_CANDIDATE:
            return [Effect(id="", kind="unload", variant=after.candidate)]
        case Action.UNLOAD_OLD:
            return [Effect(id="", kind="unload", variant=after.stable)] if policy.unload_old else []
        case Action.STAGE_WEIGHTS:
            return [replace(weights, candidate=stage.weight, baseline=stage.baseline, shadow=stage.shadow)]
        case Action.STABLE_WEIGHTS:
            return [weights]
        case Action.CANDIDATE_WEIGHTS:
            return [replace(weights, candidate=100.0)]
        case Action.EMIT:
            return [Effect(id="", kind="event", event=emit)]
        case Action.NEXT_STAGE:
            return []
        case _:
            phase: HookPhase = action.value.removeprefix("hook ")  # type: ignore[assignment]
            return [Effect(id="", kind="hook", hook=hook) for hook in policy.hooks if hook.phase == phase]


def _record(
    state: RolloutState,
    before: Phase,
    event: str,
    reason: str,
    now: float,
    *,
    command: str | None = None,
    verdict: Verdict | None = None,
) -> Decision:
    after = replace(state, seq=state.seq + 1, reason=reason, command=state.command if command is None else command)
    return Decision(seq=after.seq, at=now, event=event, before=before, state=after, reason=reason, verdict=verdict)
