"""A rollout as people want to see it: where it stands, why, what the gates say, and what comes next."""

import math

from pydantic import BaseModel

from gateway.controlplane.delivery.record import Record
from gateway.core.evidence_counts import ArmCounts
from gateway.core.histogram import upper_us
from gateway.core.rollout import next_decision_at
from gateway.core.rollout_stages import stages
from gateway.core.verdict import Verdict


class GateBody(BaseModel):
    """One gate: its answer, the evidence against its bounds, the effect with its interval, what would change it."""

    gate: str
    outcome: str
    reason: str
    counts: bool
    statistic: float
    bound: float
    pass_statistic: float
    pass_bound: float
    samples: float
    reference_samples: float
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    would_change: str


class VerdictBody(BaseModel):
    """The gates' answer together."""

    outcome: str
    reason: str
    samples: float
    gates: list[GateBody]


class ArmBody(BaseModel):
    """What one arm did in this stage; `p50_ms` and `p99_ms` are upper edges of latency buckets, null without any."""

    assigned: int
    ok: int
    client_error: int
    upstream_error: int
    timeout: int
    connect_error: int
    shed: int
    p50_ms: float | None
    p99_ms: float | None
    predictions: float
    shadow_compared: int
    shadow_disagreed: int
    feedback_correct: float
    feedback_wrong: float


class RolloutBody(BaseModel):
    """One rollout.

    Attributes:
        stage: name of the present stage; `stages` has all of them, `stage_index` says which one it is.
        weight: the candidate's share of the traffic now, per cent.
        since: Unix time of the last change of phase.
        next_decision_at: Unix time at which the clock alone can change something.
        outstanding: effects not confirmed yet, in order.
        verdict: the gates' last answer; once nothing is judged any more, the one that the last decision rests on.
        candidate_counts: of this stage, or of the last one that was judged.
        reference_counts: likewise.
    """

    id: str
    route: str
    strategy: str
    stable: str
    candidate: str
    phase: str
    final: bool
    stage: str
    stage_index: int
    stages: list[str]
    weight: float
    baseline: float
    shadow: float
    created: float
    since: float
    entered: float
    who: str
    why: str
    reason: str
    next_decision_at: float | None
    outstanding: list[str]
    decisions: int
    verdict: VerdictBody | None
    candidate_counts: ArmBody
    reference_counts: ArmBody


def describe(record: Record, verdict: Verdict | None) -> RolloutBody:
    """Everything about a rollout that the API and the commands show."""
    state, policy, evidence = record.state, record.policy, record.evidence
    every = stages(policy)
    share = record.shares.get(max(record.shares, default=0))
    return RolloutBody(
        id=record.id,
        route=record.route,
        strategy=policy.strategy,
        stable=state.stable,
        candidate=state.candidate,
        phase=state.phase.value,
        final=state.final,
        stage=every[state.stage].name,
        stage_index=state.stage,
        stages=[stage.name for stage in every],
        weight=share.candidate if share else 0.0,
        baseline=share.baseline if share else 0.0,
        shadow=share.shadow if share else 0.0,
        created=record.created,
        since=state.since,
        entered=state.entered,
        who=record.who,
        why=record.why,
        reason=record.because,
        next_decision_at=None if state.final else next_decision_at(state, policy),
        outstanding=[f"{e.kind} {e.hook.phase if e.hook else e.event or e.variant}".strip() for e in state.outstanding],
        decisions=state.seq,
        verdict=verdict_body(verdict) if verdict is not None else None,
        candidate_counts=_arm(evidence.candidate),
        reference_counts=_arm(evidence.reference),
    )


def verdict_body(verdict: Verdict) -> VerdictBody:
    """A verdict as the API shows it."""
    gates = [
        GateBody(
            gate=gate.gate,
            outcome=gate.outcome.value,
            reason=gate.reason,
            counts=gate.counts,
            statistic=_finite(gate.statistic) or 0.0,
            bound=_finite(gate.bound) or 0.0,
            pass_statistic=_finite(gate.pass_statistic) or 0.0,
            pass_bound=_finite(gate.pass_bound) or 0.0,
            samples=gate.samples,
            reference_samples=gate.reference_samples,
            effect=_finite(gate.effect),
            effect_low=_finite(gate.effect_low),
            effect_high=_finite(gate.effect_high),
            would_change=gate.would_change,
        )
        for gate in verdict.gates
    ]
    return VerdictBody(outcome=verdict.outcome.value, reason=verdict.reason, samples=verdict.samples, gates=gates)


def _finite(value: float | None) -> float | None:
    """JSON has no infinities; evidence beyond all bounds is shown as a very large number."""
    if value is None or math.isnan(value):
        return None
    return max(min(float(value), 1e308), -1e308)


def _arm(counts: ArmCounts) -> ArmBody:
    apart = {"predictions": sum(counts.predictions.values()), "p50_ms": _ms(counts, 0.5), "p99_ms": _ms(counts, 0.99)}
    return ArmBody(**{name: getattr(counts, name) for name in ArmBody.model_fields if name not in apart} | apart)


def _ms(counts: ArmCounts, quantile: float) -> float | None:
    bucket = counts.quantile_bucket(quantile)
    return None if bucket is None else upper_us(bucket) / 1000
