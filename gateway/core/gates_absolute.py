"""The guardrails: objectives in absolute terms."""

import math

from gateway.core.evidence import log_mean
from gateway.core.evidence_bets import log_wealth
from gateway.core.evidence_state import Evidence, gate_alpha, guardrail_counts
from gateway.core.rollout_policy import Guardrails, RolloutPolicy
from gateway.core.rollout_stages import Stage
from gateway.core.verdict import GateVerdict, Outcome

OLD_RATE_SLACK = 1.1
"""Where the old version misses an objective, the candidate may be this much worse than it (times the slack)."""


def judge_guardrails(evidence: Evidence, policy: RolloutPolicy, stage: Stage, gate: Guardrails) -> GateVerdict:
    """Error rate, p50 and p99 against their objectives.

    Fails on evidence that the candidate is beyond an objective and beyond what the old version does at the same time;
    passes while its own rate in this stage keeps every objective (times the step's slack). On sticky routes it holds
    instead of failing while the traffic is split: the candidate may have drawn the keys that fail anywhere, and only
    counts by key can tell.
    """
    bound = 1 / gate_alpha(policy, "guardrails")
    old = {name: (bad, seen) for name, _, bad, seen in guardrail_counts(gate, evidence.old)}
    missed: list[str] = []
    kept: list[str] = []
    logs: dict[str, float] = {}
    for name, rate, bad, seen in guardrail_counts(gate, evidence.candidate):
        objective = evidence.objectives.get(name)
        logs[name] = float(log_wealth(objective.wealth)) if objective else 0.0
        old_bad, old_seen = old[name]
        old_rate = old_bad / old_seen if old_seen else 0.0
        allowed = min(1.0, stage.slack * max(rate, OLD_RATE_SLACK * old_rate))
        text = f"{_NAMES[name]}: {bad} of {seen} candidate requests, {100 * allowed:.3g} % allowed"
        (missed if seen and bad / seen > allowed else kept).append(text)
    samples = evidence.candidate.ended
    worst = max(logs, key=lambda name: logs[name], default="")
    statistic = float(log_mean(list(logs.values()))) if logs else 0.0
    would_change = ""
    beyond = statistic >= math.log(bound)
    if beyond and evidence.by_key and stage.weight < 100:
        outcome = Outcome.INCONCLUSIVE
        reason = (
            f"objective {_NAMES[worst]} is missed, by the version or by the keys it drew ({'; '.join(missed or kept)})"
        )
        would_change = "the gates that count by key decide whether the version is to blame"
    elif beyond:
        outcome, reason = Outcome.FAIL, f"objective {_NAMES[worst]} is missed ({'; '.join(missed or kept)})"
        would_change = "nothing: a failure stands"
    elif samples < stage.min_samples:
        outcome, reason = Outcome.NO_DATA, f"{samples} candidate requests of {stage.min_samples} needed"
        would_change = f"{stage.min_samples - samples} more candidate requests"
    elif missed:
        outcome, reason = Outcome.INCONCLUSIVE, f"beyond the objective, not yet beyond chance ({'; '.join(missed)})"
        would_change = f"evidence of {bound:.3g} fails it; a lower rate in this stage passes it"
    else:
        outcome, reason = Outcome.PASS, f"objectives kept ({'; '.join(kept)})"
        would_change = f"evidence of {bound:.3g} that an objective is missed fails it"
    return GateVerdict(
        gate=f"guardrails:{worst}" if outcome is Outcome.FAIL else "guardrails",
        outcome=outcome,
        reason=reason,
        statistic=math.exp(min(statistic, 700.0)),
        bound=bound,
        samples=samples,
        reference_samples=evidence.old.ended,
        would_change=would_change,
        counts=not gate.dry_run,
    )


_NAMES = {"error_rate": "error rate", "p50": "slower than the p50 objective", "p99": "slower than the p99 objective"}
