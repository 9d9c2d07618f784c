"""All gates of a stage judged together."""

import math
from dataclasses import replace

from gateway.core.evidence import log_share_mismatch
from gateway.core.evidence_state import Evidence
from gateway.core.gates_absolute import judge_guardrails
from gateway.core.gates_difference import SHARE_BOUND, judge_accuracy, judge_shadow
from gateway.core.gates_drift import judge_drift
from gateway.core.gates_ratio import judge_errors, judge_latency
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.rollout_stages import Stage
from gateway.core.verdict import GateVerdict, Outcome, Verdict, together


def judge(evidence: Evidence, policy: RolloutPolicy, stage: Stage) -> Verdict:
    """The verdict on the stage now running. May be asked at any time, as often as one likes.

    Relative gates judge only while candidate and reference share the traffic, guardrails while the candidate has some,
    the shadow gate while requests are mirrored. A split that is not the one set turns relative gates into errors.
    """
    gates, found = policy.gates, list[GateVerdict]()
    if stage.compares_traffic:
        relative: list[GateVerdict] = []
        if gates.errors is not None:
            relative.append(judge_errors(evidence, policy, stage, gates.errors))
        if gates.latency is not None:
            relative.append(judge_latency(evidence, policy, stage, gates.latency))
        if gates.drift is not None:
            relative.append(judge_drift(evidence, policy, stage, gates.drift))
        if gates.accuracy is not None:
            relative.append(judge_accuracy(evidence, policy, stage, gates.accuracy))
        mismatch = share_mismatch(evidence)
        found += [_spoilt(gate, mismatch) for gate in relative] if mismatch else relative
    if gates.guardrails is not None and stage.weight > 0:
        found.append(judge_guardrails(evidence, policy, stage, gates.guardrails))
    shadow = policy.shadow_gate
    if shadow is not None and stage.shadow > 0:
        found.append(judge_shadow(evidence, policy, stage, shadow))
    samples = evidence.candidate.assigned if stage.weight > 0 else evidence.candidate.shadow_compared
    return together(tuple(found), samples=samples)


def share_mismatch(evidence: Evidence) -> str:
    """What is wrong with the observed split; empty when it is the one that was set."""
    drawn = [t for t in evidence.assigned if t.n]
    if not drawn:
        return ""
    log_e = float(log_share_mismatch([t.x for t in drawn], [t.n for t in drawn], [t.share for t in drawn]))
    if log_e < math.log(SHARE_BOUND):
        return ""
    last = drawn[-1]
    return f"the candidate got {last.x:g} of {last.n:g} requests or keys where its share is {last.share:.4g}"


def _spoilt(gate: GateVerdict, mismatch: str) -> GateVerdict:
    return replace(
        gate,
        outcome=Outcome.ERROR,
        reason=f"no comparison is valid: {mismatch}",
        would_change="find what bends the split (retries counted twice, pinned requests counted, a lost worker report)",
    )
