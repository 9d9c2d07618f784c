"""Gates from counts to verdicts: each fails, passes and waits for the right reason, and the worst of them wins."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.evidence_counts import NOTHING, ArmCounts, Block
from gateway.core.evidence_state import Evidence, absorb, begin
from gateway.core.gates import judge, share_mismatch
from gateway.core.histogram import index
from gateway.core.rollout_policy import (
    AccuracyGate,
    DriftGate,
    ErrorsGate,
    Gates,
    Guardrails,
    LatencyGate,
    RolloutPolicy,
    ShadowGate,
)
from gateway.core.rollout_stages import Stage, stages
from gateway.core.verdict import GateVerdict, Outcome, Verdict, together, worst

FAST, SLOW = index(2_000), index(500_000)
ERRORS = RolloutPolicy(gates=Gates(latency=None, guardrails=None))
HALF = Stage(name="half", weight=50, min_samples=100)
ONE = stages(RolloutPolicy())[0]


def arm(n: int, bad: int = 0, **more: Any) -> ArmCounts:
    return ArmCounts(assigned=n, ok=n - bad, upstream_error=bad, **({"latency": {FAST: n - bad}} | more))


def feed(policy: RolloutPolicy, blocks: list[tuple[ArmCounts, ArmCounts]], share: float = 0.5, **more: Any) -> Evidence:
    evidence = begin(policy, more.pop("history", NOTHING), sticky=more.pop("sticky", False))
    for mine, theirs in blocks:
        evidence = absorb(
            evidence, Block(epoch=1, share=share, candidate=mine, reference=theirs, old=theirs, **more), policy
        )
    return evidence


def gate(verdict: Verdict, name: str) -> GateVerdict:
    (found,) = [g for g in verdict.gates if g.gate.split(":")[0] == name]
    return found


def test_the_order_of_verdicts_is_declared() -> None:
    """Failure beats error beats no data beats doubt beats pass, and nothing at all is no data."""
    assert list(Outcome) == [Outcome.FAIL, Outcome.ERROR, Outcome.NO_DATA, Outcome.INCONCLUSIVE, Outcome.PASS]
    for i, outcome in enumerate(Outcome):
        assert worst(list(Outcome)[i:]) is outcome
    assert worst([]) is Outcome.NO_DATA


def test_a_dry_run_gate_is_shown_without_influence() -> None:
    """Its failure appears and changes nothing; with no gate that counts there is no data."""
    failed = GateVerdict(gate="errors", outcome=Outcome.FAIL, reason="x", counts=False)
    fine = GateVerdict(gate="latency", outcome=Outcome.PASS, reason="y")
    assert together((failed, fine), samples=5).outcome is Outcome.PASS
    assert together((failed,), samples=5).outcome is Outcome.NO_DATA


def test_nothing_seen_is_no_data() -> None:
    """Before the first request every policy says no data, at every kind of stage."""
    for strategy in ("canary", "blue_green", "shadow", "ab", "champion_challenger"):
        policy = RolloutPolicy(strategy=strategy)
        for stage in stages(policy):
            assert judge(begin(policy), policy, stage).outcome is Outcome.NO_DATA


@given(
    blocks=st.lists(
        st.tuples(st.integers(0, 99), st.integers(0, 500), st.integers(0, 99), st.integers(0, 50)), max_size=1
    )
)
def test_too_few_samples_never_pass(blocks: list[tuple[int, int, int, int]]) -> None:
    """Below the stage's minimum no counts whatever make a pass."""
    evidence = feed(RolloutPolicy(), [(arm(n, min(bad, n)), arm(m, min(worse, m))) for n, m, bad, worse in blocks])
    assert judge(evidence, RolloutPolicy(), HALF).outcome is not Outcome.PASS


def test_a_version_that_raises_fails_within_a_few_requests() -> None:
    """At one per cent of 500 requests a second, total failure is found in the second second, whatever the minimum."""
    policy = RolloutPolicy()
    seconds = [(arm(5, 5), arm(495)), (arm(5, 5), arm(495)), (arm(5, 5), arm(495))]
    verdict = judge(feed(policy, seconds, share=0.01), policy, ONE)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.samples == 15
    assert judge(feed(policy, seconds[:2], share=0.01), policy, ONE).outcome is Outcome.FAIL
    errors = gate(verdict, "errors")
    assert errors.statistic >= errors.bound == pytest.approx(300)
    assert errors.effect_low is not None
    assert errors.effect_low > 1
    assert errors.would_change == "nothing: a failure stands"


def test_a_better_version_is_told_by_what_happened() -> None:
    """Fewer server errors than the old version's: shown with the ratio, not as "no client errors either"."""
    better = gate(judge(feed(ERRORS, [(arm(500), arm(500, 5))] * 20), ERRORS, HALF), "errors")
    assert better.outcome is Outcome.PASS
    assert better.reason.startswith("0 of 100 server errors")
    assert better.effect == 0
    assert (better.effect_high or 9) < 0.5


def test_equal_arms_pass_by_ratio_and_clean_ones_by_rate() -> None:
    """With errors on both sides the ratio is shown small; without any the rate is."""
    both = feed(ERRORS, [(arm(500, 5), arm(500, 5))] * 60)
    assert judge(both, ERRORS, HALF).outcome is Outcome.PASS
    clean = feed(ERRORS, [(arm(100), arm(100))] * 60)
    found = gate(judge(clean, ERRORS, HALF), "errors")
    assert found.outcome is Outcome.PASS
    assert found.effect is None
    assert (found.effect_low, found.effect_high) == (0.0, None)


def test_doubt_says_what_would_end_it() -> None:
    """An inconclusive gate names the errors that would fail it and the requests that would pass it; both are right."""
    blocks = [(arm(5, int(i == 7)), arm(495)) for i in range(30)]
    evidence = feed(ERRORS, blocks, share=0.01)
    found = gate(judge(evidence, ERRORS, ONE), "errors")
    assert found.outcome is Outcome.INCONCLUSIVE
    more = int(found.would_change.split(" more ")[0])
    for extra in (more - 1, more):
        later = feed(ERRORS, blocks + [(arm(5, 1), arm(495))] * extra, share=0.01)
        assert (judge(later, ERRORS, ONE).outcome is Outcome.FAIL) == (extra == more)
    requests = int(found.would_change.split("about ")[1].split()[0])
    later = feed(ERRORS, blocks + [(arm(5), arm(495))] * (2 * requests // 5), share=0.01)
    assert judge(later, ERRORS, ONE).outcome is Outcome.PASS


def test_client_errors_and_sheds_are_tested_apart() -> None:
    """A candidate that refuses valid inputs fails although the backend calls it the client's fault."""
    for name in ("client_error", "shed"):
        mine = ArmCounts(assigned=20, ok=10, **{name: 10})  # type: ignore[arg-type]
        verdict = judge(feed(ERRORS, [(mine, arm(400))] * 6, share=0.05), ERRORS, HALF)
        assert verdict.outcome is Outcome.FAIL
        assert {"client_error": "client errors", "shed": "sheds"}[name] in verdict.reason


def test_a_bent_split_is_an_error_and_not_a_verdict() -> None:
    """When the candidate gets far fewer requests than its share, nothing relative is judged."""
    blocks = [(arm(10), arm(490))] * 40
    evidence = feed(ERRORS, blocks, share=0.1)
    verdict = judge(evidence, ERRORS, HALF)
    assert verdict.outcome is Outcome.ERROR
    assert "400 of 20000" in share_mismatch(evidence)
    assert share_mismatch(feed(ERRORS, blocks, share=0.02)) == ""


def test_guardrails_still_protect_when_the_split_is_bent() -> None:
    """An absolute failure needs no comparison, and failure beats error."""
    policy = RolloutPolicy()
    verdict = judge(feed(policy, [(arm(10, 5), arm(490))] * 40, share=0.1), policy, HALF)
    assert gate(verdict, "errors").outcome is Outcome.ERROR
    assert gate(verdict, "guardrails").outcome is Outcome.FAIL
    assert verdict.outcome is Outcome.FAIL


def test_slow_candidates_fail_the_latency_gate() -> None:
    """Slower than the old version's own 95 % quantile, far more often than one in twenty."""
    policy = RolloutPolicy(gates=Gates(errors=None, guardrails=None))
    history = arm(1000, latency={FAST: 950, SLOW: 50})
    mine, theirs = arm(20, latency={FAST: 10, index(30_000): 10}), arm(380, latency={FAST: 361, SLOW: 19})
    verdict = judge(feed(policy, [(mine, theirs)] * 60, share=0.05, history=history), policy, HALF)
    assert verdict.outcome is Outcome.FAIL
    assert "requests above 2" in verdict.reason
    same = arm(20, latency={FAST: 19, SLOW: 1})
    assert judge(feed(policy, [(same, theirs)] * 60, share=0.05, history=history), policy, HALF).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("latency", "objective"),
    [({SLOW: 20}, "p99"), ({index(30_000): 20}, "p50")],
)
def test_latency_objectives_hold_without_a_reference(latency: dict[int, int], objective: str) -> None:
    """With all traffic on the candidate, p50 and p99 are still judged."""
    policy = RolloutPolicy()
    all_of_it = Stage(name="all", weight=100)
    verdict = judge(feed(policy, [(arm(20, latency=latency), NOTHING)] * 30, share=1.0), policy, all_of_it)
    assert verdict.outcome is Outcome.FAIL
    assert [g.gate for g in verdict.gates] == [f"guardrails:{objective}"]


def test_an_objective_missed_by_the_old_version_too_does_not_fail_the_new_one() -> None:
    """Two per cent errors on both sides miss 0.1 %, and are not the candidate's fault."""
    policy = RolloutPolicy(gates=Gates(errors=None, latency=None))
    verdict = judge(feed(policy, [(arm(100, 2), arm(400, 8))] * 60, share=0.2), policy, HALF)
    assert verdict.outcome is Outcome.PASS
    alone = judge(feed(policy, [(arm(100, 2), arm(400))] * 60, share=0.2), policy, HALF)
    assert alone.outcome is Outcome.FAIL


def test_guardrails_hold_instead_of_failing_on_sticky_routes() -> None:
    """The candidate may have drawn the keys that fail anywhere: it is held, and only keys can condemn it."""
    policy = RolloutPolicy(gates=Gates(errors=ErrorsGate(), latency=None))
    blocks = [(arm(10, 5), arm(490))] * 30
    verdict = judge(feed(policy, blocks, share=0.02, sticky=True), policy, HALF)
    assert gate(verdict, "guardrails").outcome is Outcome.INCONCLUSIVE
    keys = {"server": (1.0, 0.0)}
    assert judge(feed(policy, blocks, share=0.02, sticky=True, keys=keys), policy, HALF).outcome is Outcome.FAIL


def test_guardrails_condemn_a_version_that_has_every_key() -> None:
    """After the switch, or in the rollback window, it has drawn no keys in particular: failing is its own doing."""
    policy = RolloutPolicy(gates=Gates(errors=ErrorsGate(), latency=None))
    split = [(arm(10, 5), arm(490))] * 30
    window = Stage(name="window", weight=100)
    unlucky = absorb(
        feed(policy, split, share=0.02, sticky=True), Block(epoch=2, share=1.0, candidate=arm(500)), policy
    )
    assert judge(unlucky, policy, window).outcome is Outcome.PASS, "what some keys did before is forgotten"
    failing = unlucky
    for _ in range(5):
        failing = absorb(failing, Block(epoch=2, share=1.0, candidate=arm(500, 250)), policy)
    assert judge(failing, policy, window).outcome is Outcome.FAIL


DRIFT = RolloutPolicy(gates=Gates(errors=None, latency=None, guardrails=None, drift=DriftGate(output="y")))


def spread(n: int, p: list[float], rng: np.random.Generator) -> ArmCounts:
    return ArmCounts(assigned=n, ok=n, predictions=dict(enumerate(rng.multinomial(n, p).tolist())))


def test_drift_of_predictions_fails_without_any_error() -> None:
    """A candidate that answers one class half of the time is found; the same distribution passes."""
    rng = np.random.default_rng(1)
    even, bent = [0.1] * 10, [0.55] + [0.05] * 9
    blocks = [(spread(25, bent, rng), spread(475, even, rng)) for _ in range(20)]
    verdict = judge(feed(DRIFT, blocks, share=0.05), DRIFT, HALF)
    assert verdict.outcome is Outcome.FAIL
    blocks = [(spread(25, even, rng), spread(475, even, rng)) for _ in range(40)]
    verdict = judge(feed(DRIFT, blocks, share=0.05), DRIFT, HALF)
    assert verdict.outcome is Outcome.PASS
    assert gate(verdict, "drift").effect == pytest.approx(0, abs=0.05)


def test_moderate_drift_holds() -> None:
    """Between moderate and major the gate neither passes nor fails, and says when it looks next."""
    rng = np.random.default_rng(2)
    gentle = Gates(
        errors=None, latency=None, guardrails=None, drift=DriftGate(output="y", classes=2, tolerance_ratio=2)
    )
    policy = RolloutPolicy(gates=gentle)
    blocks = [(spread(100, [0.68, 0.32], rng), spread(100, [0.5, 0.5], rng)) for _ in range(20)]
    found = gate(judge(feed(policy, blocks), policy, HALF), "drift")
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "moderate from 0.1" in found.reason
    assert "next look" in found.would_change


def test_scores_have_a_ks_guardrail_too() -> None:
    """A shift of scores beyond the KS distance fails although no bin is twice as frequent."""
    rng = np.random.default_rng(3)
    gates = Gates(
        errors=None,
        latency=None,
        guardrails=None,
        drift=DriftGate(output="y", kind="score", tolerance_ratio=3, psi_moderate=5, psi_major=9),
    )
    policy = RolloutPolicy(gates=gates)
    low, high = [0.15] * 5 + [0.05] * 5, [0.05] * 5 + [0.15] * 5
    blocks = [(spread(50, high, rng), spread(50, low, rng)) for _ in range(10)]
    verdict = judge(feed(policy, blocks), policy, HALF)
    assert verdict.outcome is Outcome.FAIL
    assert "KS" in verdict.reason


def test_accuracy_drop_fails_and_equal_accuracy_passes() -> None:
    """Ground truth condemns a version that answers without a single error."""
    policy = RolloutPolicy(gates=Gates(errors=None, latency=None, guardrails=None, accuracy=AccuracyGate()))

    def truth(n: int, wrong: int) -> ArmCounts:
        return ArmCounts(assigned=n, ok=n, feedback_correct=n - wrong, feedback_wrong=wrong)

    bad = judge(feed(policy, [(truth(10, 4), truth(90, 3))] * 20, share=0.1), policy, HALF)
    assert (bad.outcome, bad.gates[0].effect) == (Outcome.FAIL, pytest.approx(0.4 - 3 / 90))
    good = judge(
        feed(policy, [(truth(10, int(i % 3 == 0)), truth(90, 3)) for i in range(300)], share=0.1), policy, HALF
    )
    assert good.outcome is Outcome.PASS
    uneven = judge(feed(policy, [(truth(10, 0), truth(10, 0))] * 20, share=0.1), policy, HALF)
    assert uneven.outcome is Outcome.ERROR
    for found in (bad.gates[0], good.gates[0]):
        assert found.effect is not None
        assert -1 < (found.effect_low or 0) < found.effect < (found.effect_high or 1) < 1


def test_shadow_disagreement_counts_only_beyond_the_noise() -> None:
    """A nondeterministic but equal model stays quiet; a seeded fault is found; both without any live traffic."""
    policy = RolloutPolicy(strategy="shadow", gates=Gates(shadow=ShadowGate(noise_share=0.5)))
    (stage,) = stages(policy)

    def copies(mine: int, noise: int) -> tuple[ArmCounts, ArmCounts]:
        return ArmCounts(shadow_compared=20, shadow_disagreed=mine), ArmCounts(
            shadow_compared=20, shadow_disagreed=noise
        )

    noisy = judge(feed(policy, [copies(6, 6)] * 60, share=0.0), policy, stage)
    assert noisy.outcome in {Outcome.PASS, Outcome.INCONCLUSIVE}
    fault = judge(feed(policy, [copies(8, 0)] * 20, share=0.0), policy, stage)
    assert fault.outcome is Outcome.FAIL
    assert "160 disagreements in 400" in fault.reason
    quiet = judge(feed(policy, [copies(0, 0)] * 20, share=0.0), policy, stage)
    assert (quiet.outcome, quiet.samples) == (Outcome.PASS, 400)


def test_copies_have_a_minimum_of_their_own_where_there_is_no_traffic() -> None:
    """`preview_min_samples` holds before a switch; steps with traffic go by the gate's own minimum."""
    policy = RolloutPolicy(strategy="blue_green", preview_min_samples=500)
    compared = [(ArmCounts(shadow_compared=20), NOTHING)] * 20
    preview = stages(policy)[0]
    few = judge(feed(policy, compared, share=0.0), policy, preview)
    assert (few.outcome, "400 observations of 500" in few.reason) == (Outcome.NO_DATA, True)
    assert judge(feed(policy, compared * 2, share=0.0), policy, preview).outcome is Outcome.PASS
    canary = RolloutPolicy(gates=Gates(errors=None, latency=None, guardrails=None, shadow=ShadowGate(noise_share=0)))
    step = Stage(name="step", weight=5, shadow=10, min_samples=500)
    assert judge(feed(canary, compared, share=0.05), canary, step).outcome is Outcome.PASS


def test_slack_lets_small_shares_advance_on_weaker_proof() -> None:
    """The same evidence passes with slack and is not enough for the margin itself."""
    evidence = feed(ERRORS, [(arm(10), arm(990))] * 80, share=0.01)
    assert judge(evidence, ERRORS, Stage(name="a", weight=1, slack=5)).outcome is Outcome.PASS
    assert judge(evidence, ERRORS, Stage(name="a", weight=1)).outcome is Outcome.INCONCLUSIVE


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200), st.integers(0, 200)),
        min_size=1,
        max_size=5,
    )
)
def test_every_verdict_explains_itself(seconds: list[tuple[int, int, int, int]]) -> None:
    """Whatever was seen: finite statistics, a reason, and for all but a pass something that would change it."""
    policy = RolloutPolicy(
        gates=Gates(
            latency=LatencyGate(), guardrails=Guardrails(), drift=DriftGate(output="y"), accuracy=AccuracyGate()
        )
    )
    evidence = feed(policy, [(arm(n + bad, bad), arm(m + worse, worse)) for bad, worse, n, m in seconds])
    for found in judge(evidence, policy, HALF).gates:
        assert found.reason
        assert found.would_change or found.outcome is Outcome.PASS
        assert math.isfinite(found.statistic)
        assert found.bound >= 1 / policy.alpha
