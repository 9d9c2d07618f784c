"""Rollouts of every strategy on a virtual clock, from start to end."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.rollout import (
    Command,
    Effect,
    EffectResult,
    Inputs,
    RolloutState,
    current_stage,
    decide,
    next_decision_at,
)
from gateway.core.rollout_policy import Gates, Hook, RolloutPolicy, ShadowGate, Step
from gateway.core.rollout_stages import stages
from gateway.core.rollout_table import FINAL, Phase
from gateway.core.verdict import Outcome, Verdict
from tests.rollout.walker import Judge, World, always, confirm, fresh, run, verdict, world

QUICK = RolloutPolicy(
    steps=(Step(weight=1, min_time_s=5), Step(weight=10, min_time_s=5), Step(weight=50, min_time_s=5)),
    rollback_window_s=20,
    max_hold_s=30,
)


def command(kind: Any, **more: Any) -> Command:
    return Command(id=f"{kind}-1", kind=kind, by="ann", **more)


def test_canary_climbs_every_step_and_promotes() -> None:
    """Load, warm up, each weight once in order, all traffic, the window, and only then the old version unloaded."""
    done = run(world(), QUICK, always(Outcome.PASS), seconds=200)
    assert done.state.phase is Phase.COMPLETED
    assert done.weights() == [1, 10, 50, 100]
    assert done.kinds()[:2] == ["start", "load v2"]
    assert done.kinds()[-2:] == ["unload v1", "complete"]
    epochs = [effect.epoch for effect in done.done.values() if effect.kind == "weights"]
    assert epochs == [8, 9, 10, 11]


def test_steps_keep_their_minimum_time() -> None:
    """Evidence that passes at once does not shorten a step below its minimum time."""
    done = run(world(), QUICK, always(Outcome.PASS), seconds=200)
    entered = [d.at for d in done.decisions() if d.before is Phase.ENTERING and d.event == "done"]
    left = [d.at for d in done.decisions() if d.event.startswith("passed")]
    assert [b - a for a, b in zip(entered, left, strict=True)] == [5, 5, 5]


@pytest.mark.parametrize("outcome", [Outcome.NO_DATA, Outcome.INCONCLUSIVE, Outcome.ERROR, None])
def test_without_a_pass_nothing_advances(outcome: Outcome | None) -> None:
    """No data, no certainty, no valid comparison, no verdict at all: held, and in the end taken back."""
    judge: Judge = always(outcome) if outcome else lambda state, now: None
    done = run(world(), QUICK, judge, seconds=200)
    assert done.state.phase is Phase.ABORTED
    assert done.weights() == [1, 0]
    assert [d.event for d in done.decisions() if d.before in {Phase.JUDGING, Phase.HELD}][:1] == ["stalled"]
    assert "held for 30 s" in next(d.reason for d in done.decisions() if d.event == "hold_expired")


def test_a_hold_may_wait_for_ever() -> None:
    """With `wait` a held rollout stays, its shares unchanged, and goes on when evidence comes."""
    policy = RolloutPolicy(steps=QUICK.steps, on_hold_timeout="wait", rollback_window_s=0)
    late: Judge = lambda state, now: verdict(Outcome.PASS if now > 5000 else Outcome.NO_DATA)  # noqa: E731
    held = run(world(), policy, late, seconds=4000)
    assert held.state.phase is Phase.HELD
    assert held.weights() == [1]
    assert run(held, policy, late, seconds=2000).state.phase is Phase.COMPLETED


@pytest.mark.parametrize("at", [9, 12, 18])
def test_a_failure_takes_traffic_back_at_once(at: int) -> None:
    """The first decision after a failing verdict gives all traffic to the old version, then unloads the candidate."""
    judge: Judge = lambda state, now: verdict(Outcome.FAIL if now >= at else Outcome.PASS, "it fails")  # noqa: E731
    done = run(world(), QUICK, judge, seconds=200)
    assert done.state.phase is Phase.ABORTED
    (abort,) = [d for d in done.decisions() if d.event == "failed"]
    assert abort.effects[0].kind == "weights"
    assert abort.effects[0].candidate == 0
    assert abort.reason == "it fails"
    assert abort.verdict is not None
    assert abort.verdict.outcome is Outcome.FAIL
    assert done.kinds()[-1] == "unload v2"


def test_freezing_keeps_the_shares_for_a_person() -> None:
    """With on_fail hold a failure changes no weight and waits; a person may resume or go back."""
    policy = RolloutPolicy(steps=QUICK.steps, on_fail="hold")
    frozen = run(world(), policy, always(Outcome.FAIL), seconds=500)
    assert frozen.state.phase is Phase.FROZEN
    assert frozen.weights() == [1]
    back = run(frozen, policy, always(Outcome.FAIL), seconds=50, commands={500: command("abort")})
    assert back.state.phase is Phase.ABORTED
    assert back.weights() == [1, 0]


def test_a_failure_after_promotion_brings_the_old_version_back() -> None:
    """In the rollback window the old version is still loaded and gets all traffic in one decision."""
    judge: Judge = lambda state, now: verdict(Outcome.FAIL if state.phase is Phase.WINDOW else Outcome.PASS)  # noqa: E731
    done = run(world(), QUICK, judge, seconds=200)
    assert done.state.phase is Phase.ROLLED_BACK
    assert done.weights() == [1, 10, 50, 100, 0]
    assert "unload v1" not in done.kinds()


@pytest.mark.parametrize("kind", ["rollback", "abort"])
def test_a_person_rolls_back_in_the_window(kind: Any) -> None:
    """Either word takes the promotion back while the window is open."""
    started = run(world(), QUICK, always(Outcome.PASS), seconds=40)
    assert started.state.phase is Phase.WINDOW
    done = run(started, QUICK, always(Outcome.PASS), seconds=50, commands={int(started.now): command(kind)})
    assert done.state.phase is Phase.ROLLED_BACK
    assert "by ann" in next(d.reason for d in done.decisions() if d.event == kind)


def test_pause_freezes_and_resume_goes_on() -> None:
    """A paused rollout keeps its share however good the evidence, and goes on from the same step."""
    commands = {8: command("pause"), 60: command("resume")}
    done = run(world(), QUICK, always(Outcome.PASS), seconds=60, commands=commands)
    assert done.state.phase is Phase.PAUSED
    assert done.weights() == [1]
    assert run(done, QUICK, always(Outcome.PASS), seconds=200, commands=commands).weights() == [1, 10, 50, 100]


def test_a_pausing_step_waits_for_approval() -> None:
    """After its gates passed it waits, and `promote` moves on by one step only."""
    policy = RolloutPolicy(steps=(Step(weight=1, min_time_s=1, pause=True), Step(weight=5, min_time_s=1, pause=True)))
    waiting = run(world(), policy, always(Outcome.PASS), seconds=30)
    assert waiting.state.phase is Phase.AWAITING
    second = run(waiting, policy, always(Outcome.PASS), seconds=30, commands={30: command("promote")})
    assert (second.state.phase, second.weights()) == (Phase.AWAITING, [1, 5])
    again = Command(id="promote-2", kind="promote", by="ann")
    done = run(second, policy, always(Outcome.PASS), seconds=30, commands={60: again})
    assert (done.state.phase, done.weights()) == (Phase.WINDOW, [1, 5, 100])


def test_promotion_ahead_of_the_evidence_needs_full() -> None:
    """A plain promote of a running step is refused with the way to do it; in full it goes at once, by name."""
    commands = dict.fromkeys(range(8, 12), command("promote"))
    refused = run(world(), QUICK, always(Outcome.NO_DATA), seconds=12, commands=commands)
    (entry,) = [d for d in refused.decisions() if d.event == "refused_command"]
    assert "promote in full" in entry.reason
    full = Command(id="p2", kind="promote", by="ann", full=True, note="known good")
    done = run(refused, QUICK, always(Outcome.NO_DATA), seconds=5, commands={12: full})
    assert done.weights() == [1, 100]
    assert next(d.reason for d in done.decisions() if d.event == "promote") == "promote in full by ann: known good"


def test_a_command_is_obeyed_once() -> None:
    """The same command delivered again, as after a crash, does nothing."""
    commands = dict.fromkeys(range(8, 30), command("pause"))
    commands[15] = command("resume")
    done = run(world(), QUICK, always(Outcome.NO_DATA), seconds=10, commands=commands)
    assert [d.event for d in done.decisions()].count("pause") == 1
    assert [d.event for d in done.decisions()].count("refused_command") == 0


def hooked(*phases: Any) -> RolloutPolicy:
    hooks = tuple(Hook(phase=phase, url=f"http://hook/{phase}") for phase in phases)
    return RolloutPolicy(steps=QUICK.steps, hooks=hooks, rollback_window_s=5)


def refusing(phase: str) -> Any:
    def answer(effect: Effect) -> EffectResult:
        ok = effect.hook is None or effect.hook.phase != phase
        return EffectResult(id=effect.id, ok=ok, detail="" if ok else "no")

    return answer


PHASES = ("pre_rollout", "pre_step", "post_step", "confirm_promotion", "post_promotion", "on_abort", "on_rollback")


def test_hooks_are_called_around_each_phase() -> None:
    """Once before the rollout, around every step, before and after promotion; those of an abort not at all."""
    done = run(world(), hooked(*PHASES), always(Outcome.PASS), seconds=200)
    called = [effect.hook.phase for effect in done.done.values() if effect.hook]
    step = ["pre_step", "post_step"]
    assert called == ["pre_rollout", *step, *step, *step, "confirm_promotion", "post_promotion"]


@pytest.mark.parametrize(
    ("at", "phase"), [(Phase.JUDGING, "on_abort"), (Phase.PAUSED, "on_abort"), (Phase.WINDOW, "on_rollback")]
)
def test_going_back_has_a_hook_of_its_own(at: Phase, phase: str) -> None:
    """Called after traffic has returned: one for an abort, another one for a rollback from the window."""
    judge: Judge = lambda state, now: verdict(Outcome.FAIL if state.phase is at else Outcome.PASS)  # noqa: E731
    commands = {7: command("pause")} if at is Phase.PAUSED else {}
    done = run(world(), hooked(*PHASES), judge, seconds=200, commands=commands)
    effects = list(done.done.values())
    (called,) = [e for e in effects if e.hook and e.hook.phase.startswith("on_")]
    assert called.hook is not None
    assert called.hook.phase == phase
    back = max(i for i, e in enumerate(effects) if e.kind == "weights")
    assert (effects[back].candidate, back < effects.index(called)) == (0.0, True)


@pytest.mark.parametrize(
    ("phase", "weights"),
    [("pre_rollout", [0]), ("pre_step", [0]), ("post_step", [1, 0]), ("confirm_promotion", [1, 10, 50, 0])],
)
def test_a_refusing_hook_stops_before_what_it_guards(phase: str, weights: list[float]) -> None:
    """A refusal at a blocking hook aborts, and what it stood before never happens."""
    done = run(world(), hooked(*PHASES), always(Outcome.PASS), seconds=200, answer=refusing(phase))
    assert done.state.phase is Phase.ABORTED
    assert done.weights() == weights
    assert f"hook {phase} refused: no" in [d.reason for d in done.decisions()]


@pytest.mark.parametrize("phase", ["post_promotion", "on_abort"])
def test_a_refusal_afterwards_is_only_recorded(phase: str) -> None:
    """Hooks that tell of what has happened cannot undo it."""
    outcome = Outcome.PASS if phase == "post_promotion" else Outcome.FAIL
    done = run(world(), hooked(*PHASES), always(outcome), seconds=200, answer=refusing(phase))
    assert done.state.phase is (Phase.COMPLETED if phase == "post_promotion" else Phase.ABORTED)


@pytest.mark.parametrize("kind", ["load", "warm"])
def test_a_candidate_that_does_not_load_gets_no_traffic(kind: str) -> None:
    """A failed load or warm-up undoes what was loaded and never touches the shares upward."""

    def answer(effect: Effect) -> EffectResult:
        return EffectResult(id=effect.id, ok=effect.kind != kind, detail="1 of 3 backends")

    done = run(world(), QUICK, always(Outcome.PASS), seconds=100, answer=answer)
    assert done.state.phase is Phase.ABORTED
    assert done.weights() == [0]
    assert "unload v2" in done.kinds()


@pytest.mark.parametrize(("kind", "after"), [("load", 600), ("warm", 120)])
def test_loading_and_warming_have_a_deadline(kind: str, after: float) -> None:
    """A quorum that never comes ends the rollout after the policy's time."""

    def answer(effect: Effect) -> EffectResult | None:
        return None if effect.kind == kind else EffectResult(id=effect.id)

    done = run(world(), QUICK, always(Outcome.PASS), seconds=1000, answer=answer)
    (expired,) = [d for d in done.decisions() if d.event == "expired"]
    begun = next(d.at for d in done.decisions() if d.state.phase.value == f"{kind}ing")
    assert expired.at - begun == after
    assert done.state.phase is Phase.ABORTED


def test_blue_green_shadows_switches_and_analyses_again() -> None:
    """No share before the preview passed, then all traffic at once; a failure after the switch goes back."""
    policy = RolloutPolicy(strategy="blue_green", preview_time_s=10, post_time_s=10, rollback_window_s=5)
    done = run(world(), policy, always(Outcome.PASS), seconds=200)
    shadows = [effect.shadow for effect in done.done.values() if effect.kind == "weights"]
    assert (done.weights(), shadows) == ([0, 100, 100], [10, 0, 0])
    assert done.state.phase is Phase.COMPLETED
    bad: Judge = lambda state, now: verdict(Outcome.FAIL if state.stage == 1 else Outcome.PASS)  # noqa: E731
    back = run(world(), policy, bad, seconds=200)
    assert (back.state.phase, back.weights()) == (Phase.ABORTED, [0, 100, 0])


@pytest.mark.parametrize(("strategy", "weights"), [("shadow", [0, 0]), ("ab", [10, 0])])
def test_reports_are_never_promoted(strategy: Any, weights: list[float]) -> None:
    """Shadow and A/B end by themselves with all traffic on the old version, however good the candidate."""
    policy = RolloutPolicy(strategy=strategy, max_time_s=50)
    done = run(world(), policy, always(Outcome.PASS), seconds=200)
    assert (done.state.phase, done.weights()) == (Phase.COMPLETED, weights)
    assert "promote" not in done.kinds()


def test_a_challenger_stands_until_a_person_decides() -> None:
    """Champion-challenger keeps its share without end, falls on failure, and is promoted only by command."""
    policy = RolloutPolicy(strategy="champion_challenger", share=20, rollback_window_s=5)
    standing = run(world(), policy, always(Outcome.PASS), seconds=3000)
    assert (standing.state.phase, standing.weights()) == (Phase.JUDGING, [20])
    full = command("promote", full=True)
    assert run(standing, policy, always(Outcome.PASS), seconds=50, commands={3000: full}).weights() == [20, 100]
    assert run(world(), policy, always(Outcome.FAIL), seconds=50).state.phase is Phase.ABORTED


def test_stages_carry_baseline_and_mirror() -> None:
    """An equal baseline stands beside every step that leaves room, and the shadow gate mirrors at every step."""
    gates = Gates(shadow=ShadowGate())
    policy = RolloutPolicy(baseline="equal", gates=gates, steps=(Step(weight=5), Step(weight=50)))
    first, last = stages(policy)
    assert (first.baseline, first.share, first.shadow, last.baseline, last.share) == (5, 0.5, 10, 50, 0.5)
    assert stages(RolloutPolicy())[0].share == 0.01


def test_the_next_decision_by_the_clock_is_known() -> None:
    """What `status` shows as next: the end of the minimum time, of the hold, of the window."""
    done = run(world(), QUICK, always(Outcome.NO_DATA), seconds=6)
    judging = done.state
    assert next_decision_at(judging, QUICK) == judging.entered + 5
    held = run(done, QUICK, always(Outcome.NO_DATA), seconds=10).state
    assert next_decision_at(held, QUICK) == held.held + 30
    window = run(world(), QUICK, always(Outcome.PASS), seconds=40).state
    assert next_decision_at(window, QUICK) == window.since + 20
    assert next_decision_at(fresh(), QUICK) is None
    assert current_stage(window, QUICK) is not None
    assert current_stage(fresh(), QUICK) is None


def test_events_that_were_not_told_yet_are_told_after_an_abort() -> None:
    """Taking traffic back comes first, but no notice is lost to it."""

    def slow_events(effect: Effect) -> EffectResult | None:
        return None if effect.kind == "event" and effect.event == "hold" else confirm(effect)

    held = run(world(), QUICK, always(Outcome.NO_DATA), seconds=15, answer=slow_events)
    assert held.state.phase is Phase.HELD
    run(held, QUICK, always(Outcome.FAIL), seconds=1, answer=slow_events)
    done = run(held, QUICK, always(Outcome.FAIL), seconds=20)
    assert done.kinds()[-4:] == ["weights", "abort", "unload v2", "hold"]


outcomes = st.sampled_from([*Outcome, None])
kinds = st.sampled_from(["pause", "resume", "promote", "abort", "rollback"])
inputs = st.tuples(
    outcomes, st.one_of(st.none(), st.tuples(kinds, st.booleans())), st.sampled_from(["ok", "refuse", "silent"])
)


@settings(max_examples=200)
@given(
    policy=st.sampled_from(
        [
            QUICK,
            hooked(*PHASES),
            RolloutPolicy(strategy="blue_green", preview_time_s=3, post_time_s=3),
            RolloutPolicy(strategy="ab", max_time_s=9),
            RolloutPolicy(steps=(Step(weight=5, min_time_s=1, pause=True),), on_fail="hold", on_hold_timeout="wait"),
        ]
    ),
    story=st.lists(inputs, min_size=1, max_size=60),
)
def test_no_story_breaks_the_rules(policy: RolloutPolicy, story: list[Any]) -> None:
    """Whatever happens: decisions are numbered without gaps, epochs only rise, and no promotion lacks a pass."""
    state, log, passed_last = fresh(), [], False
    for now, (outcome, asked, answer) in enumerate(story):
        results: tuple[EffectResult, ...] = ()
        if answer != "silent":
            results = tuple(
                EffectResult(id=e.id, ok=answer == "ok" or e.kind in {"weights", "unload"}) for e in state.outstanding
            )
        order = Command(id=str(now), kind=asked[0], by="x", full=asked[1]) if asked else None
        found: Verdict | None = verdict(outcome) if outcome else None
        decision = decide(state, policy, Inputs(results=results, verdict=found, command=order), float(now))
        if decision is None:
            continue
        assert decision.seq == state.seq + 1 == decision.state.seq
        assert decision.reason
        assert decision.state.epoch >= state.epoch
        assert len({effect.id for effect in decision.effects}) == len(decision.effects)
        assert 0 <= decision.state.stage < len(stages(policy))
        if decision.event in {"passed", "passed_last", "passed_pause"}:
            assert outcome is Outcome.PASS
        log.append(decision)
        state = decision.state
        passed_last = passed_last or decision.event in {"passed_last", "promote", "approve_last"}
        if (
            any(e.kind == "weights" and e.candidate == 100 for e in decision.effects)
            and policy.strategy != "blue_green"
        ):
            assert passed_last
        if state.phase in FINAL:
            assert decide(state, policy, Inputs(command=order), now + 1.0) is None
            break


def test_state_without_news_makes_no_decision() -> None:
    """Asking again without anything new gives nothing to store."""
    done: World = run(world(), QUICK, always(Outcome.NO_DATA), seconds=6)
    state: RolloutState = done.state
    assert state.phase is Phase.JUDGING
    assert decide(state, QUICK, Inputs(verdict=verdict(Outcome.PASS)), state.entered + 1) is None
