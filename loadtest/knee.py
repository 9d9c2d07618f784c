"""The knee: the highest open-loop rate at which all objectives still hold."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from loadtest.objectives import Judgement, Objective, Verdict, requests_needed, worst

Why = Literal["found", "above the range", "below the range", "undecided"]


class Probe(msgspec.Struct, frozen=True):
    """One run at one rate, and the `requests` it had. `verdict` leaves objectives on the rate out: that is searched."""

    rate_per_s: float
    achieved_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    error_rate: float
    generator_cpu: float
    verdict: Verdict
    reasons: list[str]
    requests: int = 0


class Knee(msgspec.Struct, frozen=True):
    """The highest rate that held, None when none did, and why the search ended."""

    rate_per_s: float | None
    why: Why


class Side(msgspec.Struct, frozen=True):
    """The knee of one way to a model, and how it was found."""

    name: str
    knee: Knee
    probes: list[Probe]


@dataclass(frozen=True, slots=True)
class Range:
    """Rates to search, in requests per second, until the answer is known to a factor of `1 + precision`."""

    low: float
    high: float
    precision: float = 0.05


def next_step(probes: Sequence[Probe], limits: Range) -> float | Knee:
    """The rate to try next, or the answer.

    Doubles from the lowest rate until objectives fail, then halves the gap (as a ratio). A rate that failed once may
    have had bad luck, so the first failure above a passing rate is tried a second time before it counts.
    """
    held = max((p.rate_per_s for p in probes if p.verdict == "pass"), default=None)
    undecided = [p for p in probes if p.verdict not in ("pass", "fail")]
    if undecided:
        return Knee(held, "undecided")
    failed_at = [p.rate_per_s for p in probes if p.verdict == "fail" and (held is None or p.rate_per_s > held)]
    if not failed_at:
        if held is None:
            return limits.low
        return Knee(held, "above the range") if held >= limits.high else min(held * 2, limits.high)
    failed = min(failed_at)
    if failed_at.count(failed) == 1:
        return failed
    if held is None:
        return Knee(None, "below the range")
    if failed / held <= 1 + limits.precision:
        return Knee(held, "found")
    return math.sqrt(failed * held)


def lowest_judgeable(objectives: Sequence[Objective], seconds: float) -> float:
    """The rate below which a run of `seconds` is too short to judge the objectives, whatever the server does."""
    need = max((requests_needed(o) for o in objectives), default=0.0)
    # Some requests may fail, and arrivals are random: their number varies by its square root.
    return max(1.2 * need, need + 4 * math.sqrt(need)) / seconds


def without_rate(judgements: Sequence[Judgement]) -> tuple[Verdict, list[str]]:
    """The verdict on everything but the rate, and the reasons against a pass."""
    rest = [j for j in judgements if not j.objective.startswith("rate_per_s")]
    bad = [
        f"{j.objective}: {j.reason or f'{j.value:.3g}'}" for j in rest if j.verdict != "pass" and j.value is not None
    ]
    return worst(j.verdict for j in rest), bad


def search(
    probe: Callable[[float], Probe], limits: Range, on_probe: Callable[[Probe], None]
) -> tuple[Knee, list[Probe]]:
    """Probe until the answer is known."""
    probes: list[Probe] = []
    while not isinstance(step := next_step(probes, limits), Knee):
        probes.append(probe(step))
        on_probe(probes[-1])
    return step, probes
