"""The gates on differences of rates: disagreement of shadows beyond noise, and accuracy by ground truth."""

import math
from collections.abc import Sequence

from gateway.core.evidence import log_share_mismatch
from gateway.core.evidence_bets import difference_interval, log_difference_above, log_difference_below
from gateway.core.evidence_state import Difference, Evidence, gate_alpha
from gateway.core.rollout_policy import AccuracyGate, RolloutPolicy, ShadowGate
from gateway.core.rollout_stages import Stage
from gateway.core.verdict import GateVerdict, Outcome

SHARE_BOUND = 1000.0
"""Evidence of a bent split from which nothing is judged (p < 0.001)."""


def judge_shadow(evidence: Evidence, policy: RolloutPolicy, stage: Stage, gate: ShadowGate) -> GateVerdict:
    """Candidate copies that disagree with the original, beyond what a second stable copy does."""
    least = math.ceil(gate.min_samples / stage.slack)
    return _judge(
        "shadow",
        "disagreements",
        evidence.shadow,
        policy,
        tolerated=gate.max_disagreement,
        margin=gate.margin_disagreement * stage.slack,
        # Where the candidate has no traffic, the stage's own minimum is one of copies.
        min_samples=least if stage.weight else max(least, stage.min_samples),
        counts=not gate.dry_run,
    )


def judge_accuracy(evidence: Evidence, policy: RolloutPolicy, stage: Stage, gate: AccuracyGate) -> GateVerdict:
    """Wrong answers by ground truth; an error when feedback reaches the arms unevenly."""
    return _judge(
        "accuracy",
        "wrong answers",
        evidence.feedback,
        policy,
        tolerated=gate.max_drop,
        margin=gate.margin_drop * stage.slack,
        min_samples=math.ceil(gate.min_samples / stage.slack),
        counts=not gate.dry_run,
    )


def _judge(
    name: str,
    what: str,
    seen: Sequence[Difference],
    policy: RolloutPolicy,
    *,
    tolerated: float,
    margin: float,
    min_samples: int,
    counts: bool,
) -> GateVerdict:
    bound, pass_bound = 1 / gate_alpha(policy, name), 1 / policy.beta
    candidate = sum(d.candidate for d in seen)
    reference = sum(d.n - d.candidate for d in seen)
    x, y = sum(d.x for d in seen), sum(d.y for d in seen)
    arrays = [d.x for d in seen], [d.y for d in seen], [d.n for d in seen], [d.share for d in seen]
    above = float(log_difference_above(*arrays, difference=tolerated)) if seen else 0.0
    below = float(log_difference_below(*arrays, difference=min(margin, 0.99))) if seen else 0.0
    drawn = [d for d in seen if d.share < 1]
    bent = (
        float(log_share_mismatch([d.candidate for d in drawn], [d.n for d in drawn], [d.share for d in drawn]))
        if drawn
        else 0.0
    )
    effect = x / candidate - (y / reference if reference else 0.0) if candidate else None
    low, high = difference_interval(*arrays, alpha=policy.alpha) if seen else (None, None)
    text = f"{x:g} {what} in {candidate:g} on the candidate, {y:g} in {reference:g} beside it"
    would_change = ""
    if bent >= math.log(SHARE_BOUND):
        outcome, reason = Outcome.ERROR, f"{text}: the numbers are not in the ratio in which the arms were drawn"
        would_change = "find out why one arm is observed more often than the other"
    elif above >= math.log(bound):
        outcome, reason = Outcome.FAIL, f"{text}: more than {tolerated:g} above"
        would_change = "nothing: a failure stands"
    elif candidate < min_samples:
        outcome, reason = Outcome.NO_DATA, f"{candidate:g} observations of {min_samples} needed"
        would_change = f"{min_samples - candidate:g} more observations"
    elif below >= math.log(pass_bound):
        outcome, reason = Outcome.PASS, f"{text}: less than {margin:.3g} above"
        would_change = f"evidence of {bound:.3g} that it is more than {tolerated:g} above fails it"
    else:
        outcome, reason = Outcome.INCONCLUSIVE, f"{text}: neither shown above {tolerated:g} nor below {margin:.3g}"
        would_change = "more observations"
    return GateVerdict(
        gate=name,
        outcome=outcome,
        reason=reason,
        statistic=math.exp(min(above, 700.0)),
        bound=bound,
        pass_statistic=math.exp(min(below, 700.0)),
        pass_bound=pass_bound,
        samples=candidate,
        reference_samples=reference,
        effect=effect,
        effect_low=low,
        effect_high=high,
        would_change=would_change,
        counts=counts,
    )
