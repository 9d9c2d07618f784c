"""Whole policies through the controller's own functions, one simulated rollout after the other, with every gate on."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from gateway.core.evidence_counts import ArmCounts, Block
from gateway.core.evidence_state import absorb, begin
from gateway.core.gates import judge
from gateway.core.histogram import index
from gateway.core.rollout_policy import AccuracyGate, DriftGate, Gates, RolloutPolicy, ShadowGate
from gateway.core.rollout_stages import stages
from gateway.core.verdict import Outcome, Verdict

RATE: Final = 500
CLASSES: Final = 10
POLICY: Final = RolloutPolicy(
    gates=Gates(drift=DriftGate(output="y", classes=CLASSES), accuracy=AccuracyGate(), shadow=ShadowGate())
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """How a version behaves.

    Attributes:
        errors: part of the requests that fails.
        wrong: part of the answers that ground truth refutes (every fifth answer gets ground truth).
        first_class: part of the answers that fall into the first of ten classes.
        median_ms: median latency (log-normal).
        differs: part of the mirrored copies that differ from the original.
    """

    errors: float = 0.0005
    wrong: float = 0.03
    first_class: float = 0.1
    median_ms: float = 4.0
    differs: float = 0.02


OLD: Final = Version()
CANDIDATES: Final = (
    ("equally good", OLD),
    ("half as many errors, 2 points more accurate", Version(errors=0.00025, wrong=0.01)),
    ("accuracy 97 % to 85 %", Version(wrong=0.15)),
    ("one class of ten predicted three times as often", Version(first_class=0.3)),
    ("half as fast", Version(median_ms=8.0)),
    ("10 % of the shadow's answers differ, 2 % are noise", Version(differs=0.10)),
    ("0.05 % to 5 % errors", Version(errors=0.05)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What happened to a candidate under the policy with all gates on.

    Attributes:
        name: of the candidate's behaviour.
        rollouts: how many were simulated.
        passed: how many passed every step.
        failed_by: aborted ones, by the gate that decided.
        median_s: median time to the more frequent end.
        median_requests: candidate requests until then.
    """

    name: str
    rollouts: int
    passed: int
    failed_by: dict[str, int]
    median_s: float
    median_requests: float

    @property
    def aborted(self) -> int:
        """How many were aborted."""
        return sum(self.failed_by.values())


def outcomes(
    name: str,
    version: Version,
    *,
    rollouts: int,
    seed: int,
    horizon_s: int = 900,
    told: Callable[[int], None] = lambda done: None,
) -> Outcomes:
    """Simulates rollouts of one candidate; steps last at least 20 s so that healthy ones end within the horizon."""
    policy = replace(POLICY, steps=tuple(replace(step, min_time_s=20) for step in POLICY.steps))
    passed: list[tuple[int, float]] = []
    failed: list[tuple[int, float]] = []
    by = Counter[str]()
    for i in range(rollouts):
        verdict, seconds, requests = _one(version, policy, np.random.default_rng([seed, i]), horizon_s)
        told(1)
        if verdict.outcome is Outcome.FAIL:
            by[next(g.gate for g in verdict.gates if g.outcome is Outcome.FAIL)] += 1
            failed.append((seconds, requests))
        elif verdict.outcome is Outcome.PASS:
            passed.append((seconds, requests))
    ends = max(passed, failed, key=len)
    return Outcomes(
        name=name,
        rollouts=rollouts,
        passed=len(passed),
        failed_by=dict(by),
        median_s=float(np.median([s for s, _ in ends])) if ends else float("nan"),
        median_requests=float(np.median([r for _, r in ends])) if ends else float("nan"),
    )


def _one(
    version: Version, policy: RolloutPolicy, rng: np.random.Generator, horizon_s: int
) -> tuple[Verdict, int, float]:
    """The verdict that ended one rollout (or the last one), after how long, and after how many candidate requests."""
    evidence = begin(policy, _arm(OLD, 60 * RATE, rng))
    t, requests = 0, 0.0
    verdict = Verdict(outcome=Outcome.NO_DATA, reason="")
    for number, stage in enumerate(stages(policy), 1):
        entered = t
        while True:
            t += 1
            total = int(rng.poisson(RATE))
            mine = int(rng.binomial(total, stage.share))
            theirs = _arm(OLD, total - mine, rng)
            candidate = _arm(version, mine, rng)
            requests += mine
            candidate, theirs = _mirror(version, candidate, theirs, int(rng.poisson(RATE * stage.shadow / 100)), rng)
            block = Block(epoch=number, share=stage.share, candidate=candidate, reference=theirs, old=theirs)
            evidence = absorb(evidence, block, policy)
            verdict = judge(evidence, policy, stage)
            if verdict.outcome is Outcome.FAIL:
                return verdict, t, requests
            if t >= horizon_s:
                return Verdict(outcome=Outcome.INCONCLUSIVE, reason="held"), t, requests
            if verdict.outcome is Outcome.PASS and t - entered >= stage.min_time_s:
                break
    return verdict, t, requests


def _arm(version: Version, n: int, rng: np.random.Generator) -> ArmCounts:
    bad = int(rng.binomial(n, version.errors))
    ok = n - bad
    sampled, truth = int(rng.binomial(ok, 0.1)), int(rng.binomial(ok, 0.2))
    others = (1 - version.first_class) / (CLASSES - 1)
    predictions = rng.multinomial(sampled, [version.first_class] + [others] * (CLASSES - 1))
    wrong = int(rng.binomial(truth, version.wrong))
    times = np.exp(rng.normal(np.log(version.median_ms * 1000), 0.5, ok)).astype(np.int64)
    return ArmCounts(
        assigned=n,
        ok=ok,
        upstream_error=bad,
        latency=dict(Counter(index(us) for us in times.tolist())),
        predictions={k: float(count) for k, count in enumerate(predictions.tolist()) if count},
        feedback_wrong=wrong,
        feedback_correct=truth - wrong,
    )


def _mirror(
    version: Version, candidate: ArmCounts, theirs: ArmCounts, copies: int, rng: np.random.Generator
) -> tuple[ArmCounts, ArmCounts]:
    gate = POLICY.shadow_gate
    assert gate is not None
    noise = int(rng.binomial(copies, gate.noise_share))
    return (
        replace(
            candidate,
            shadow_compared=copies - noise,
            shadow_disagreed=int(rng.binomial(copies - noise, version.differs)),
        ),
        replace(theirs, shadow_compared=noise, shadow_disagreed=int(rng.binomial(noise, OLD.differs))),
    )
