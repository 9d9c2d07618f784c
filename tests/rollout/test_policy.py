"""Policies as users write them: defaults that mean something, unknown keys refused, contradictions named."""

from typing import Any

import msgspec
import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.core.evidence_state import begin
from gateway.core.gates import judge
from gateway.core.rollout_policy import (
    AccuracyGate,
    DriftGate,
    ErrorsGate,
    Gates,
    Guardrails,
    RolloutPolicy,
    ShadowGate,
    Step,
    problems,
)
from gateway.core.rollout_stages import stages

ADAPTER = TypeAdapter(RolloutPolicy)


def test_empty_is_a_complete_canary() -> None:
    """`rollout: {}` climbs four steps under errors, latency and the brief's objectives, without contradiction."""
    policy = ADAPTER.validate_python({})
    assert policy == RolloutPolicy()
    assert [step.weight for step in policy.steps] == [1, 5, 25, 50]
    guard = policy.gates.guardrails
    assert guard is not None
    assert (guard.error_rate, guard.p50_ms, guard.p99_ms) == (0.001, 20, 100)
    drift = DriftGate(output="y")
    assert (drift.psi_moderate, drift.psi_major, AccuracyGate().max_drop) == (0.1, 0.2, 0.05)
    assert list(problems(policy)) == []


def test_a_written_policy_arrives() -> None:
    """Nested keys become the dataclasses, and null turns a gate off."""
    policy = ADAPTER.validate_python(
        {
            "strategy": "canary",
            "steps": [{"weight": 2, "min_time_s": 10, "pause": True}],
            "gates": {"latency": None, "drift": {"output": "probs", "classes": 3}},
            "hooks": [{"phase": "pre_step", "url": "http://127.0.0.1/x", "secret_env": "KEY"}],
        }
    )
    assert policy.steps == (Step(weight=2, min_time_s=10, pause=True),)
    assert policy.gates.latency is None
    assert policy.gates.drift == DriftGate(output="probs", classes=3)
    assert policy.hooks[0].timeout_s == 10


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"step": []}, "step"),
        ({"steps": []}, "steps"),
        ({"steps": [{"weight": 0}]}, "steps.0.weight"),
        ({"gates": {"erors": None}}, "gates.erors"),
        ({"gates": {"errors": {"margin_ratio": 1}}}, "gates.errors.margin_ratio"),
        ({"strategy": "yolo"}, "strategy"),
        ({"alpha": 0}, "alpha"),
        ({"hooks": [{"phase": "sometimes", "url": "http://x/y"}]}, "hooks.0.phase"),
        ({"gates": {"drift": {}}}, "gates.drift.output"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], where: str) -> None:
    """Unknown keys and values out of bounds are errors that say where."""
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(wrong)
    assert where in {".".join(str(part) for part in error["loc"]) for error in caught.value.errors()}


@pytest.mark.parametrize(
    ("policy", "where"),
    [
        (RolloutPolicy(steps=(Step(weight=5), Step(weight=5))), "steps"),
        (RolloutPolicy(steps=(Step(weight=60),), baseline="equal"), "steps.0.weight"),
        (RolloutPolicy(gates=Gates(errors=None, latency=None, guardrails=Guardrails(dry_run=True))), "gates"),
        (RolloutPolicy(gates=Gates(errors=ErrorsGate(tolerance_ratio=3))), "gates.errors.margin_ratio"),
        (RolloutPolicy(gates=Gates(drift=DriftGate(output="y", psi_major=0.05))), "gates.drift.psi_major"),
        (RolloutPolicy(gates=Gates(drift=DriftGate(output="y", edges=(2.0, 1.0)))), "gates.drift.edges"),
        (RolloutPolicy(gates=Gates(shadow=ShadowGate(max_disagreement=0.2))), "gates.shadow.margin_disagreement"),
        (RolloutPolicy(gates=Gates(accuracy=AccuracyGate(max_drop=0.2))), "gates.accuracy.margin_drop"),
        (RolloutPolicy(strategy="shadow", shadow_sample=0), "shadow_sample"),
        (RolloutPolicy(clusters="block"), "clusters"),
        (RolloutPolicy(gates=Gates(guardrails=Guardrails(error_rate=0, p50_ms=0, p99_ms=0))), "gates.guardrails"),
        (RolloutPolicy(strategy="blue_green", gates=Gates(guardrails=None)), "gates.guardrails"),
        (RolloutPolicy(strategy="blue_green", gates=Gates(guardrails=Guardrails(dry_run=True))), "gates.guardrails"),
        (
            RolloutPolicy(strategy="blue_green", gates=Gates(shadow=ShadowGate(dry_run=True))),
            "gates.shadow.dry_run",
        ),
        (RolloutPolicy(steps=(Step(weight=100),), gates=Gates(guardrails=None)), "steps.0.weight"),
    ],
)
def test_contradictions_are_named(policy: RolloutPolicy, where: str) -> None:
    """Values that are each valid but do not fit together are reported with their place."""
    assert where in [place for place, _ in problems(policy)]


@pytest.mark.parametrize("strategy", ["canary", "blue_green", "shadow", "ab", "champion_challenger"])
def test_every_strategy_is_complete_by_its_name(strategy: Any) -> None:
    """`rollout: {strategy: ...}` needs nothing more, and every stage that has to pass has a gate that can."""
    policy = RolloutPolicy(strategy=strategy)
    assert list(problems(policy)) == []
    for stage in stages(policy):
        judged = judge(begin(policy), policy, stage).gates
        assert stage.end != "advance" or any(gate.counts for gate in judged)


def test_a_policy_survives_the_store() -> None:
    """Encoded and decoded it is the same policy."""
    policy = RolloutPolicy(gates=Gates(drift=DriftGate(output="y"), shadow=ShadowGate()))
    assert msgspec.json.decode(msgspec.json.encode(policy), type=RolloutPolicy) == policy


def test_strategies_on_mirrored_requests_judge_them_unasked() -> None:
    """Shadow and blue-green ask at least for answers of the same shape; others only what they were told to."""
    implied = RolloutPolicy(strategy="blue_green").shadow_gate
    assert implied is not None
    assert (implied.rules[0].rule, implied.noise_share) == ("shape", 0.0)
    assert RolloutPolicy().shadow_gate is None
    own = ShadowGate(max_disagreement=0.02)
    assert RolloutPolicy(strategy="shadow", gates=Gates(shadow=own)).shadow_gate == own
