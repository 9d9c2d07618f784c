"""Which trials are worth looking at, and whether one of them beats what is there: arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

# Two measurements of one configuration differ by a few per cent; a winner must differ by more.
MARGIN = 0.05


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


def choose(trials: Sequence[Trial], untuned: Sequence[Trial], p99_ms: float) -> tuple[Trial | None, str]:
    """The best trial within the latency bound if it beats every measurement of the untuned configuration.

    `untuned` was measured before and after the sweep, so that a machine that grew quieter does not win.
    """
    within = [trial for trial in front(trials) if trial.p99_ms <= p99_ms]
    if not within:
        return None, f"no configuration keeps p99 within {p99_ms:g} ms; the configuration stays as it is"
    best = within[0]
    base_within = [trial for trial in untuned if trial.p99_ms <= p99_ms]
    bar = max((trial.throughput for trial in base_within), default=0.0)
    if best.throughput <= bar * (1 + MARGIN):
        return None, f"{best.candidate.label} gives {best.throughput:.0f}/s and the present one {bar:.0f}/s: it stays"
    return best, f"{best.candidate.label} gives {best.throughput:.0f}/s where the present one gives {bar:.0f}/s"
