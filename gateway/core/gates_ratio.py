"""The gates on how often something goes wrong, candidate against reference: errors and latency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core import evidence as tests
from gateway.core.evidence_bets import log_rate_below
from gateway.core.evidence_state import Check, Evidence, Tally, gate_alpha
from gateway.core.rollout_policy import ErrorsGate, Guardrails, LatencyGate, RolloutPolicy
from gateway.core.rollout_stages import Stage
from gateway.core.verdict import GateVerdict, Outcome

_LOOK_AHEAD = 200


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    worse: float  # log evidence
    fine: float
    x: float
    n: float


def log_worse(tallies: Sequence[Tally], tolerance: float) -> float:
    """Log evidence that the candidate is more than `tolerance` times as likely to end so."""
    return float(tests.log_worse(*_arrays(tallies), tolerance=tolerance)) if tallies else 0.0


def _arrays(tallies: Sequence[Tally]) -> tuple[list[float], list[float], list[float]]:
    return [t.x for t in tallies], [t.n for t in tallies], [t.share for t in tallies]


_WORDS = {
    "server": "server errors",
    "client": "client errors",
    "shed": "sheds",
    "slow": "requests above {:g} ms",
}


def _judge_check(name: str, check: Check, *, tolerance: float, margin: float, rate: float, seen: int) -> _Found:
    """`rate`: shown to be below it, the candidate is fine whatever the ratio; `seen`: its requests of this stage."""
    tallies = check.tallies
    fine = float(tests.log_fine(*_arrays(tallies), margin=margin)) if tallies else 0.0
    bad = tallies[-1].raw_x if tallies else 0.0
    if rate > 0 and seen:
        discount = tallies[-1].n / tallies[-1].raw_n if tallies and tallies[-1].raw_n else 1.0
        below = float(log_rate_below(min(rate, 0.99), discount * min(bad, seen), discount * seen))
        fine = max(fine, below)
    return _Found(
        name=name,
        worse=log_worse(tallies, tolerance),
        fine=fine,
        x=sum(t.raw_x for t in tallies),
        n=sum(t.raw_n for t in tallies),
    )


def judge_errors(evidence: Evidence, policy: RolloutPolicy, stage: Stage, gate: ErrorsGate) -> GateVerdict:
    """Server errors, client errors and sheds, each tested apart; their mean evidence decides a failure."""
    guard = policy.gates.guardrails or Guardrails()
    rate = (guard.error_rate or 0.001) * stage.slack
    found = [
        _judge_check(
            name,
            _current(evidence, name),
            tolerance=gate.tolerance_ratio,
            margin=gate.margin_ratio * stage.slack,
            rate=rate,
            seen=evidence.candidate.ended,
        )
        for name in ("server", "client", "shed")
    ]
    return _verdict("errors", evidence, policy, stage, gate, found, rate=rate)


def judge_latency(evidence: Evidence, policy: RolloutPolicy, stage: Stage, gate: LatencyGate) -> GateVerdict:
    """Requests slower than a bound that was fixed before the first of them."""
    rate = (1 - gate.quantile) * stage.slack
    found = [
        _judge_check(
            "slow",
            _current(evidence, "slow"),
            tolerance=gate.tolerance_ratio,
            margin=gate.margin_ratio * stage.slack,
            rate=rate,
            seen=evidence.candidate.timed,
        )
    ]
    return _verdict("latency", evidence, policy, stage, gate, found, rate=rate)


def _current(evidence: Evidence, name: str) -> Check:
    """The check with a tally for the stage now judged, even if nothing bad was seen in it."""
    check = evidence.checks.get(name) or Check()
    if evidence.assigned and (not check.tallies or check.tallies[-1].epoch != evidence.epoch):
        now = evidence.assigned[-1]
        return Check(tallies=(*check.tallies, Tally(epoch=now.epoch, share=now.share)), dispersion=check.dispersion)
    return check


def _verdict(
    name: str,
    evidence: Evidence,
    policy: RolloutPolicy,
    stage: Stage,
    gate: ErrorsGate | LatencyGate,
    found: list[_Found],
    *,
    rate: float,
) -> GateVerdict:
    bound, pass_bound = 1 / gate_alpha(policy, name), 1 / policy.beta
    worse = float(tests.log_mean([f.worse for f in found]))
    fine = min(f.fine for f in found)
    leading = max(found, key=lambda f: f.worse)
    weakest = min(found, key=lambda f: f.fine)
    # Of what never happened on either side there is nothing to tell.
    told = max((f for f in found if f.n), key=lambda f: f.worse, default=leading)
    tallies = _current(evidence, told.name).tallies
    low, high = tests.ratio_interval(*_arrays(tallies), alpha=policy.alpha) if tallies else (0.0, None)
    effect = tests.ratio([t.raw_x for t in tallies], [t.raw_n for t in tallies], [t.share for t in tallies])
    samples = evidence.candidate.ended
    seen = f"{told.x:g} of {told.n:g} {_WORDS[told.name].format(evidence.slow_ms)} on the candidate"
    bound_text = f"{'' if effect is None else f' (ratio {effect:.3g}, {low:.3g} to {_upper(high)})'}"
    if worse >= math.log(bound):
        outcome, reason = Outcome.FAIL, f"{seen}{bound_text}: more than chance allows"
    elif samples < stage.min_samples:
        outcome, reason = Outcome.NO_DATA, f"{samples} candidate requests of {stage.min_samples} needed"
    elif fine >= math.log(pass_bound):
        outcome = Outcome.PASS
        reason = f"{seen}{bound_text}: within {gate.margin_ratio * stage.slack:g} times, or below {rate:.3g}"
    else:
        outcome, reason = Outcome.INCONCLUSIVE, f"{seen}{bound_text}: neither shown worse nor shown good enough yet"
    return GateVerdict(
        gate=name,
        outcome=outcome,
        reason=reason,
        statistic=math.exp(min(worse, 700.0)),
        bound=bound,
        pass_statistic=math.exp(min(fine, 700.0)),
        pass_bound=pass_bound,
        samples=samples,
        reference_samples=evidence.reference.ended,
        effect=effect,
        effect_low=low,
        effect_high=high,
        would_change=_would_change(outcome, found, leading, weakest, evidence, gate, stage, bound, pass_bound, rate),
        counts=not gate.dry_run,
    )


def _upper(high: float | None) -> str:
    return "any" if high is None else f"{high:.3g}"


def _would_change(
    outcome: Outcome,
    found: list[_Found],
    leading: _Found,
    weakest: _Found,
    evidence: Evidence,
    gate: ErrorsGate | LatencyGate,
    stage: Stage,
    bound: float,
    pass_bound: float,
    rate: float,
) -> str:
    if outcome is Outcome.FAIL:
        return "nothing: a failure stands"
    parts = []
    more = _more_to_fail(_current(evidence, leading.name).tallies, found, leading, gate.tolerance_ratio, bound)
    if more is not None:
        what = _WORDS[leading.name].format(evidence.slow_ms)
        if more == 1:
            what = what.replace("errors", "error").replace("sheds", "shed").replace("requests", "request")
        parts.append(f"{more} more {what} on the candidate, in as many seconds, would fail it")
    if outcome is Outcome.NO_DATA:
        parts.append(f"{stage.min_samples - evidence.candidate.ended} more candidate requests are needed to judge")
    elif outcome is Outcome.INCONCLUSIVE and rate > 0:
        needed = math.ceil((math.log(pass_bound) - weakest.fine) / -math.log1p(-min(rate, 0.99)))
        parts.append(
            f"about {needed} more candidate requests without {_WORDS[weakest.name].format(evidence.slow_ms)} pass it"
        )
    return "; ".join(parts)


def _more_to_fail(
    tallies: Sequence[Tally], found: list[_Found], leading: _Found, tolerance: float, bound: float
) -> int | None:
    if not tallies:
        return None
    more = np.arange(1, _LOOK_AHEAD + 1)
    x = np.tile([t.x for t in tallies], (_LOOK_AHEAD, 1))
    n = np.tile([t.n for t in tallies], (_LOOK_AHEAD, 1))
    x[:, -1] += more
    n[:, -1] += more
    ahead = tests.log_worse(x, n, [t.share for t in tallies], tolerance=tolerance)
    others = [np.full(_LOOK_AHEAD, f.worse) for f in found if f is not leading]
    together = tests.log_mean(np.stack([ahead, *others], axis=-1))
    enough = np.flatnonzero(together >= math.log(bound))
    return int(more[enough[0]]) if len(enough) else None
