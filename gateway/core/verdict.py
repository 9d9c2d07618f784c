"""Verdicts and their one order: the worst wins."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What a gate says, worst first; the worst of several is the verdict of all."""

    FAIL = "fail"
    ERROR = "error"
    NO_DATA = "no_data"
    INCONCLUSIVE = "inconclusive"
    PASS = "pass"  # noqa: S105 - a verdict


_ORDER = {outcome: rank for rank, outcome in enumerate(Outcome)}


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of the outcomes; NO_DATA of none, because unknown is not success."""
    return min(outcomes, key=_ORDER.__getitem__, default=Outcome.NO_DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """One gate's answer with all that explains it.

    Attributes:
        gate: its name in the policy (`errors`, `guardrails`, ...), after a colon the check inside it that decided.
        outcome: the answer.
        reason: one sentence for people.
        statistic: evidence (an e-value) that the candidate is worse; 0 where there is none.
        bound: the statistic at or above which the gate fails.
        pass_statistic: evidence that the candidate is good within the margin.
        pass_bound: the pass statistic at or above which the gate passes.
        samples: candidate observations of this stage.
        reference_samples: those of the reference.
        effect: estimated ratio or difference, candidate to reference; None without data.
        effect_low: lower end of its interval, valid at all times at level alpha.
        effect_high: upper end; None when unbounded.
        would_change: what would change the answer.
        counts: whether it counts (not dry_run).
    """

    gate: str
    outcome: Outcome
    reason: str
    statistic: float = 0.0
    bound: float = 0.0
    pass_statistic: float = 0.0
    pass_bound: float = 0.0
    samples: float = 0.0
    reference_samples: float = 0.0
    effect: float | None = None
    effect_low: float | None = None
    effect_high: float | None = None
    would_change: str = ""
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The gates' answer together, at one look.

    Attributes:
        outcome: worst of the gates that count.
        reason: the deciding gate's sentence.
        gates: each gate's verdict.
        samples: candidate observations of this stage.
    """

    outcome: Outcome
    reason: str
    gates: tuple[GateVerdict, ...] = ()
    samples: float = 0.0


def together(gates: tuple[GateVerdict, ...], *, samples: float) -> Verdict:
    """All gates' verdict: the worst that counts, with its reason."""
    counting = [gate for gate in gates if gate.counts]
    outcome = worst(gate.outcome for gate in counting)
    deciding = next((gate for gate in counting if gate.outcome is outcome), None)
    reason = f"{deciding.gate}: {deciding.reason}" if deciding else "no gate judges this stage"
    return Verdict(outcome=outcome, reason=reason, gates=gates, samples=samples)
