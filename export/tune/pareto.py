"""Which trials are worth looking at, and whether one of them beats what is there: arithmetic only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

# One-sided 95 % quantiles of Student's t by degrees of freedom: what `PAIRS` and its neighbours need.
_T95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833}
PAIRS = 5


class Candidate(msgspec.Struct, frozen=True):
    """Settings to try; None leaves the present one."""

    delay_us: int | None = None
    preferred: int | None = None
    instances: int | None = None
    max_batch: int | None = None

    @property
    def label(self) -> str:
        """As shown to people."""
        named = (("delay", self.delay_us), ("preferred", self.preferred), ("instances", self.instances))
        parts = [f"{key} {value}" for key, value in (*named, ("batch", self.max_batch)) if value is not None]
        return ", ".join(parts) or "as it is"


class Trial(msgspec.Struct, frozen=True):
    """A measured candidate; latencies in milliseconds, throughput in requests per second."""

    candidate: Candidate
    throughput: float
    p50_ms: float
    p99_ms: float
    failed: int


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other beats in throughput and p99 together, fastest first; failing ones never are."""
    sound = [trial for trial in trials if not trial.failed]
    return sorted(
        (trial for trial in sound if not any(_dominates(other, trial) for other in sound)),
        key=lambda trial: -trial.throughput,
    )


def _dominates(first: Trial, second: Trial) -> bool:
    better = first.throughput > second.throughput or first.p99_ms < second.p99_ms
    return first.throughput >= second.throughput and first.p99_ms <= second.p99_ms and better


def best(trials: Sequence[Trial], p99_ms: float) -> Trial | None:
    """The fastest trial within the latency bound; it is worth confirming, no more: the best of many is also lucky."""
    return next((trial for trial in front(trials) if trial.p99_ms <= p99_ms), None)


class Gain(msgspec.Struct, frozen=True):
    """Throughput over that of the present configuration, pair by pair: geometric mean, and its lower 95 % bound."""

    mean: float
    low: float


def gain(pairs: Sequence[tuple[Trial, Trial]]) -> Gain:
    """Of (present, candidate) measured side by side, at least two pairs; a measurement without answers counts as 0."""
    if len(pairs) < 2:
        raise ValueError("a bound needs two pairs or more")
    if any(min(present.throughput, other.throughput) <= 0 for present, other in pairs):
        return Gain(0.0, 0.0)
    logs = [math.log(other.throughput / present.throughput) for present, other in pairs]
    spread = statistics.stdev(logs) / math.sqrt(len(logs))
    quantile = _T95[min(len(logs) - 1, max(_T95))]
    mean = statistics.fmean(logs)
    return Gain(math.exp(mean), math.exp(mean - quantile * spread))


def choose(candidate: Trial | None, pairs: Sequence[tuple[Trial, Trial]], p99_ms: float) -> tuple[Trial | None, str]:
    """The candidate if it certainly beats the present configuration within the bound, else None; and the reason.

    `pairs` were measured after the sweep that found the candidate, in turns with the present configuration.
    """
    if candidate is None:
        return None, f"no configuration keeps p99 within {p99_ms:g} ms; the configuration stays as it is"
    label = candidate.candidate.label
    late = statistics.median(other.p99_ms for _, other in pairs)
    if late > p99_ms or any(other.failed for _, other in pairs):
        return None, f"{label} did not keep p99 within {p99_ms:g} ms without failures when repeated ({late:.1f} ms)"
    found = gain(pairs)
    told = f"{label} gives {found.mean:.2f} times the present throughput, at 95 % at least {found.low:.2f}"
    return (candidate, told) if found.low > 1 else (None, f"{told}: it stays")
