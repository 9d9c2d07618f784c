"""The Locust master's side: hand out the plan, start all workers at once, add up what they report."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from loadtest import histogram
from loadtest.driver.generator import BACKLOG_S
from loadtest.driver.messages import Outcome, Progress, Report
from loadtest.ledger import Total
from loadtest.plan import Plan

# Beyond a worker's own deadline: its last report must cross the network and the master's queue.
_REPORT_GRACE_S: Final = 20.0
_START_GRACE_S: Final = 120.0
_RECENT_SLICES: Final = 3


class Conductor:
    """Knows when the run is over: all workers sent their last report, or one is overdue."""

    def __init__(self, plan: Plan, *, workers: int, clock: Callable[[], float]) -> None:
        self._plan, self._workers, self._clock = plan, workers, clock
        self._created, self._begun_at, self._started_at = clock(), 0.0, 0.0
        self._total = Total()
        self._cpu_shares: dict[int, float] = {}
        self._done: set[int] = set()

    def begin(self) -> None:
        """All users are up: the run starts now."""
        self._begun_at, self._started_at = self._clock(), time.time()

    def add(self, report: Report) -> None:
        """Count a worker's report."""
        self._total.add(report.cells)
        self._cpu_shares[report.index] = report.cpu_share
        if report.last:
            self._done.add(report.index)

    def over(self, *, silent: int) -> bool:
        """Whether nothing more is to be expected; `silent` workers have stopped to send heartbeats."""
        if len(self._done) >= self._workers:
            return True
        if not self._begun_at:
            return self._clock() > self._created + _START_GRACE_S
        worst = self._plan.curve.duration_s + BACKLOG_S + self._plan.timeout_s
        grace = 0.0 if len(self._done) + silent >= self._workers else _REPORT_GRACE_S
        return self._clock() > self._begun_at + worst + grace

    def outcome(self) -> Outcome:
        """The result of the run."""
        return Outcome(
            started_at=self._started_at,
            cells=self._total.cells(),
            cpu_shares=[share for _, share in sorted(self._cpu_shares.items())],
            missing=self._workers - len(self._done),
        )

    def progress(self) -> Progress | None:
        """Figures for the terminal, None before the start."""
        if not self._begun_at:
            return None
        t = self._clock() - self._begun_at
        cells = self._total.cells()
        newest = max((c.slice for c in cells), default=0)
        recent = [c for c in cells if newest - _RECENT_SLICES <= c.slice < newest]
        latency = histogram.merge(c.latency for c in recent)
        span = max(1, len({c.slice for c in recent})) * self._plan.slice_s
        p50, p99 = (histogram.quantile_us(latency, q) for q in (0.5, 0.99))
        failed = sum(sum(c.errors.values()) for c in cells)
        return Progress(
            t=min(t, self._plan.curve.duration_s),
            duration_s=self._plan.curve.duration_s,
            requests=failed + sum(sum(c.latency.values()) for c in cells),
            errors=failed,
            rate_per_s=sum(latency.values()) / span,
            p50_ms=None if p50 is None else p50 / 1000,
            p99_ms=None if p99 is None else p99 / 1000,
        )


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Store the outcome whole or not at all."""
    draft = path.with_suffix(".part")
    draft.write_bytes(msgspec.msgpack.encode(outcome))
    draft.replace(path)


def write_progress(descriptor: int, progress: Progress) -> None:
    """One JSON line to the parent; a parent that no longer reads does not end the run."""
    try:
        os.write(descriptor, msgspec.json.encode(progress) + b"\n")
    except OSError:
        return
