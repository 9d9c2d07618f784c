"""Evidence grows block by block: sums in any order, stages apart, stragglers where they belong, storable."""

from dataclasses import fields
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.evidence_counts import NOTHING, ArmCounts, Block
from gateway.core.evidence_keys import KeyLedger
from gateway.core.evidence_state import GATES, Evidence, absorb, begin, gate_alpha
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

number = st.integers(min_value=0, max_value=50)
bins = st.dictionaries(st.integers(0, 9), st.integers(1, 20), max_size=4)
arms = st.builds(
    ArmCounts,
    assigned=number,
    ok=number,
    client_error=number,
    upstream_error=number,
    timeout=number,
    connect_error=number,
    shed=number,
    cancelled=number,
    latency=bins,
    predictions=bins,
    shadow_compared=st.integers(min_value=20, max_value=50),
    shadow_disagreed=st.integers(min_value=0, max_value=20),
    feedback_correct=number,
    feedback_wrong=number,
)
ALL = RolloutPolicy(
    gates=Gates(drift=DriftGate(output="y"), shadow=ShadowGate(), accuracy=AccuracyGate()), clusters="none"
)


def block(epoch: int = 1, share: float = 0.1, **counts: Any) -> Block:
    candidate = ArmCounts(**{k.removeprefix("c_"): v for k, v in counts.items() if k.startswith("c_")})
    reference = ArmCounts(**{k.removeprefix("r_"): v for k, v in counts.items() if k.startswith("r_")})
    return Block(epoch=epoch, share=share, candidate=candidate, reference=reference, old=reference)


@given(a=arms, b=arms, c=arms)
def test_counts_add_up_in_any_order(a: ArmCounts, b: ArmCounts, c: ArmCounts) -> None:
    """Workers' counts form one sum however they are merged, and taking one away gives back the rest."""
    assert a.plus(b).plus(c) == c.plus(a.plus(b)) == b.plus(c).plus(a)
    assert a.plus(b).minus(b) == a.plus(NOTHING)


@given(parts=st.lists(st.tuples(arms, arms), min_size=1, max_size=4))
def test_blocks_without_clusters_add_up_to_one(parts: list[tuple[ArmCounts, ArmCounts]]) -> None:
    """When every outcome counts by itself, many blocks leave the same tallies as their sum does."""
    evidence, whole = begin(ALL), (NOTHING, NOTHING)
    for mine, theirs in parts:
        evidence = absorb(evidence, Block(epoch=1, share=0.3, candidate=mine, reference=theirs, old=theirs), ALL)
        whole = whole[0].plus(mine), whole[1].plus(theirs)
    at_once = absorb(begin(ALL), Block(epoch=1, share=0.3, candidate=whole[0], reference=whole[1], old=whole[1]), ALL)
    assert evidence.checks.keys() == at_once.checks.keys()
    for name, check in evidence.checks.items():
        assert check.tallies == at_once.checks[name].tallies
    assert (evidence.candidate, evidence.reference, evidence.assigned) == (
        at_once.candidate,
        at_once.reference,
        at_once.assigned,
    )
    assert (evidence.shadow, evidence.feedback) == (at_once.shadow, at_once.feedback)


@given(parts=st.lists(st.tuples(arms, arms), min_size=1, max_size=3))
def test_evidence_survives_the_store(parts: list[tuple[ArmCounts, ArmCounts]]) -> None:
    """Encoded and decoded it is the same value, so that a new controller goes on where the old one stopped."""
    policy = RolloutPolicy(gates=ALL.gates)
    evidence = begin(policy, parts[0][1])
    for i, (mine, theirs) in enumerate(parts):
        evidence = absorb(
            evidence, Block(epoch=i // 2, share=0.3, candidate=mine, reference=theirs, old=theirs), policy
        )
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence


def test_each_stage_has_its_own_tally_and_sample() -> None:
    """A new epoch starts the stage's counts afresh and keeps the earlier stage's tally with its share."""
    evidence = absorb(begin(ALL), block(c_assigned=5, c_upstream_error=2, r_upstream_error=1), ALL)
    evidence = absorb(evidence, block(epoch=2, share=0.5, c_assigned=7, c_timeout=1), ALL)
    tallies = evidence.checks["server"].tallies
    assert [(t.epoch, t.share, t.raw_x, t.raw_n) for t in tallies] == [(1, 0.1, 2, 3), (2, 0.5, 1, 1)]
    assert evidence.candidate.assigned == 7
    assert evidence.seconds == 1


def test_a_straggler_counts_for_the_stage_it_was_assigned_in() -> None:
    """An outcome of an earlier epoch joins that epoch's tally and leaves the running stage's sample alone."""
    evidence = absorb(begin(ALL), block(c_assigned=5, c_upstream_error=2), ALL)
    evidence = absorb(evidence, block(epoch=2, share=0.5, c_assigned=7), ALL)
    evidence = absorb(evidence, block(c_timeout=1, c_feedback_wrong=1.0), ALL)
    assert [(t.epoch, t.raw_x) for t in evidence.checks["server"].tallies] == [(1, 3)]
    assert [d.epoch for d in evidence.feedback] == [1]
    assert (evidence.epoch, evidence.candidate.assigned, evidence.candidate.timeout) == (2, 7, 0)


def test_seconds_full_of_errors_count_once_at_first() -> None:
    """Ten errors of one second weigh as one until independence has been seen."""
    policy = RolloutPolicy()
    evidence = absorb(begin(policy), block(c_upstream_error=10), policy)
    (tally,) = evidence.checks["server"].tallies
    assert (tally.raw_x, tally.x) == (10, pytest.approx(1.0))


@pytest.mark.parametrize(("clusters", "weighed"), [("none", 10.0), ("block", 1.0)])
def test_cluster_rule_can_be_chosen(clusters: Any, weighed: float) -> None:
    """`none` trusts each outcome, `block` counts each second once."""
    policy = RolloutPolicy(clusters=clusters)
    (tally,) = absorb(begin(policy), block(c_upstream_error=10), policy).checks["server"].tallies
    assert tally.x == pytest.approx(weighed)


def test_sticky_routes_count_keys_and_not_requests() -> None:
    """With a sticky key the requests' errors stay out of the relative test, the keys' enter it."""
    policy = RolloutPolicy()
    told = Block(
        epoch=1,
        share=0.1,
        candidate=ArmCounts(assigned=50, upstream_error=40),
        keys={"server": (1.0, 2.0), "assigned": (3.0, 30.0), "wrong": (1.0, 0.0), "correct": (2.0, 9.0)},
    )
    evidence = absorb(begin(policy, sticky=True), told, policy)
    assert [(t.raw_x, t.raw_n) for t in evidence.checks["server"].tallies] == [(1, 3)]
    assert [(t.x, t.n) for t in evidence.assigned] == [(3, 33)]
    assert [(d.x, d.y, d.n) for d in evidence.feedback] == [(1, 0, 12)]
    assert (
        absorb(begin(RolloutPolicy(unit="request"), sticky=True), told, policy).checks["server"].tallies[0].raw_x == 40
    )


def test_slow_is_fixed_before_the_first_request() -> None:
    """The bound is the gate's own, else the old version's quantile, else the p99 objective; and it stays."""
    history = ArmCounts(latency={index(1000): 95, index(9000): 5})
    own = RolloutPolicy(gates=Gates(latency=LatencyGate(slow_ms=30)))
    assert begin(own, history).slow_bucket == index(30_000)
    assert begin(RolloutPolicy(), history).slow_bucket == index(1000)
    assert begin(RolloutPolicy()).slow_bucket == index(100_000)
    assert begin(RolloutPolicy(gates=Gates(latency=None, guardrails=None))).slow_bucket == index(100_000)
    evidence = begin(RolloutPolicy(), history)
    late = block(c_latency={index(1000): 3, index(9000): 2}, r_latency={index(64_000): 1})
    evidence = absorb(evidence, late, RolloutPolicy())
    assert evidence.slow_bucket == index(1000)
    assert [(t.raw_x, t.raw_n) for t in evidence.checks["slow"].tallies] == [(2, 3)]


def test_what_the_old_version_suffers_too_is_not_bet_on() -> None:
    """An incident that fails both arms alike moves no wealth upward; one of the candidate alone does."""
    policy = RolloutPolicy()
    both = absorb(begin(policy), block(c_upstream_error=50, c_ok=50, r_upstream_error=450, r_ok=450), policy)
    alone = absorb(begin(policy), block(c_upstream_error=50, c_ok=50, r_ok=900), policy)
    assert max(both.objectives["error_rate"].wealth) <= 1e-9
    assert max(alone.objectives["error_rate"].wealth) > 3


def test_gates_share_alpha_by_weight() -> None:
    """Parts add up to alpha over the gates that count; a dry-run gate takes nothing from the others."""
    gates = Gates(errors=ErrorsGate(alpha_weight=2), latency=LatencyGate(dry_run=True), accuracy=AccuracyGate())
    policy = RolloutPolicy(gates=gates, alpha=0.04)
    assert gate_alpha(policy, "errors") == pytest.approx(0.02)
    assert sum(gate_alpha(policy, name) for name in ("errors", "guardrails", "accuracy")) == pytest.approx(0.04)
    assert set(GATES) == {f.name for f in fields(Gates)}


def test_guardrails_can_be_off() -> None:
    """Without guardrails there is nothing to bet on, and an objective of zero is none."""
    policy = RolloutPolicy(gates=Gates(guardrails=None))
    assert absorb(begin(policy), block(c_ok=5), policy).objectives == {}
    some = RolloutPolicy(gates=Gates(guardrails=Guardrails(error_rate=0, p50_ms=0)))
    assert set(absorb(begin(some), block(c_ok=5), some).objectives) == {"p99"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["server", "assigned", "bin:1", "bin:2", "wrong", "correct"]),
            st.sampled_from(["candidate", "reference"]),
            st.lists(st.integers(0, 30), max_size=8),
        ),
        max_size=12,
    )
)
def test_a_key_counts_once_per_check(reported: list[tuple[str, str, list[int]]]) -> None:
    """However often and by however many workers a key is reported, it counts once in all."""
    ledger = KeyLedger()
    total = 0.0
    for report in reported:
        total += sum(map(sum, ledger.admit([report, report]).values()))
    sets = {"bin:1": "predictions", "bin:2": "predictions", "wrong": "feedback", "correct": "feedback"}
    assert total == len({(sets.get(check, check), key) for check, _, keys in reported for key in keys})
    assert sum(ledger.sizes().values()) == total


def test_a_full_ledger_closes_for_both_arms() -> None:
    """Beyond its bound no arm gains a key, so that the shares stay those of the draw."""
    ledger = KeyLedger(limit=3)
    assert ledger.admit([("server", "reference", [1, 2, 3, 4]), ("server", "candidate", [5, 6])]) == {"server": (0, 3)}
    assert ledger.admit([("server", "candidate", [7])]) == {"server": (0, 0)}


def test_a_key_of_neither_arm_is_used_up() -> None:
    """Beside an equal baseline most keys are in no arm; a later, larger step must not find only those of one kind."""
    ledger = KeyLedger()
    assert ledger.admit([("assigned", "", [1, 2]), ("assigned", "candidate", [3])]) == {"assigned": (1, 0)}
    assert ledger.admit([("assigned", "candidate", [1, 4]), ("assigned", "reference", [2, 5])]) == {"assigned": (1, 1)}
