"""The gate on the spread of predictions: one test per bin, averaged, beside PSI and KS as sizes."""

import math

from gateway.core import drift
from gateway.core.evidence import log_mean
from gateway.core.evidence_state import Evidence, gate_alpha
from gateway.core.gates_ratio import log_worse
from gateway.core.rollout_policy import DriftGate, RolloutPolicy
from gateway.core.rollout_stages import Stage
from gateway.core.verdict import GateVerdict, Outcome


def judge_drift(evidence: Evidence, policy: RolloutPolicy, stage: Stage, gate: DriftGate) -> GateVerdict:
    """Whether a class or score bin is more frequent on the candidate than tolerated, or PSI or KS too large.

    A bin that loses makes another one gain, so testing for more is enough. Half of the gate's alpha is the bins',
    half that of PSI and KS. The step's slack lets a small share advance on fewer samples and a larger PSI.
    """
    bound = 2 / gate_alpha(policy, "drift")
    c, r = evidence.candidate.predictions, evidence.reference.predictions
    samples, others = sum(c.values()), sum(r.values())
    checks = [evidence.checks.get(f"bin:{k}") for k in range(gate.bins)]
    logs = [log_worse(check.tallies, gate.tolerance_ratio) if check else 0.0 for check in checks]
    top = max(range(gate.bins), key=logs.__getitem__)
    statistic = float(log_mean(logs))
    size, distance = drift.psi(c, r, gate.bins), drift.ks(c, r, gate.bins)
    needed, moderate = math.ceil(gate.min_samples / stage.slack), gate.psi_moderate * stage.slack
    sizes = f"PSI {size:.3g}" + (f", KS {distance:.3g}" if gate.kind == "score" else "")
    would_change = ""
    if statistic >= math.log(bound):
        reason = f"bin {top} is more than {gate.tolerance_ratio:g} times as frequent on the candidate ({sizes})"
        outcome, would_change = Outcome.FAIL, "nothing: a failure stands"
    elif evidence.looks.psi_beyond or evidence.looks.ks_beyond:
        which = f"PSI from {gate.psi_major:g}" if evidence.looks.psi_beyond else f"KS from {gate.ks_major:g}"
        outcome, reason = Outcome.FAIL, f"{sizes}: {which} is a major shift, and larger than chance allows"
        would_change = "nothing: a failure stands"
    elif samples < needed:
        outcome, reason = Outcome.NO_DATA, f"{samples:.0f} sampled predictions of {needed} needed"
        would_change = f"{needed - samples:.0f} more sampled predictions"
    elif size < moderate and not (gate.kind == "score" and distance >= gate.ks_major):
        outcome, reason = Outcome.PASS, f"{sizes} over {samples:.0f} sampled predictions"
        would_change = f"evidence of {bound:.3g} against a bin, or PSI from {moderate:g}"
    else:
        noise = (gate.bins - 1) * (1 / samples + (1 / others if others else 1.0))
        outcome = Outcome.INCONCLUSIVE
        reason = f"{sizes}, moderate from {moderate:g} (about {noise:.2g} of PSI would be chance)"
        would_change = f"the next look at PSI is at {evidence.looks.next_at:.0f} sampled predictions"
    return GateVerdict(
        gate="drift",
        outcome=outcome,
        reason=reason,
        statistic=math.exp(min(statistic, 700.0)),
        bound=bound,
        samples=samples,
        reference_samples=others,
        effect=None if math.isnan(size) else size,
        would_change=would_change,
        counts=not gate.dry_run,
    )
