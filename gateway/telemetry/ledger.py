"""Adds up what workers report, so that no sum ever goes backwards when a worker dies or forgets an old epoch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.core.histogram import BUCKETS
from gateway.telemetry.records import BackendStatus, Outcome, ShadowCounts, VariantCounts, WorkerReport

K = TypeVar("K")

_PER_SLOT = 3
_BACKEND_COUNTERS = ("connects", "connect_failures", "ejections", "failures", "requests")
_VARIANT_COUNTERS = ("assigned", "latency_us", "upstream_us", "request_bytes", "response_bytes")
_SHADOW_COUNTERS = ("sent", "ok", "errors", "timeouts")


@dataclass(slots=True)
class Totals:
    """Sums over workers, dead ones included; keys are (route, variant), (route, fault code), (pool, url)."""

    variants: dict[tuple[str, str], VariantCounts] = field(default_factory=dict)
    shadows: dict[tuple[str, str], ShadowCounts] = field(default_factory=dict)
    faults: dict[tuple[str, str], int] = field(default_factory=dict)
    backends: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    accepted: int = 0
    retries: int = 0

    def add_variants(self, rows: Iterable[VariantCounts]) -> None:
        """Adds rows, whatever their epoch and whether they were pinned."""
        for row in rows:
            key = row.route, row.variant
            into = self.variants.get(key)
            if into is None:
                into = self.variants[key] = VariantCounts(route=row.route, variant=row.variant, epoch=0)
            into.outcomes = _plus(into.outcomes, row.outcomes, len(Outcome))
            into.latency = _plus(into.latency, row.latency, BUCKETS)
            _add_fields(into, row, _VARIANT_COUNTERS)
            _merge(into.statuses, row.statuses)

    def add_shadows(self, rows: Iterable[ShadowCounts]) -> None:
        """Adds rows, whatever their epoch."""
        for row in rows:
            key = row.route, row.variant
            into = self.shadows.get(key)
            if into is None:
                into = self.shadows[key] = ShadowCounts(route=row.route, variant=row.variant, epoch=0)
            into.latency = _plus(into.latency, row.latency, BUCKETS)
            _add_fields(into, row, _SHADOW_COUNTERS)
            _merge(into.dropped, row.dropped)

    def add_faults(self, rows: Iterable[tuple[str, str, int]]) -> None:
        """Adds answers that the gateway made itself."""
        for route, code, count in rows:
            self.faults[route, code] = self.faults.get((route, code), 0) + count

    def add_backends(self, rows: Iterable[BackendStatus]) -> None:
        """Adds the counters of backends; their gauges belong to single workers."""
        for row in rows:
            into = self.backends.setdefault((row.pool, row.url), dict.fromkeys(_BACKEND_COUNTERS, 0))
            for name in _BACKEND_COUNTERS:
                into[name] += getattr(row, name)

    def add_report(self, report: WorkerReport) -> None:
        """Adds everything one worker counted."""
        self.add_variants(report.variants)
        self.add_shadows(report.shadows)
        self.add_faults(report.faults)
        self.add_backends(report.backends)
        self.accepted += report.accepted
        self.retries += report.retries


class Ledger:
    """The last reports of each worker slot, and the sum of all that will never be reported again."""

    def __init__(self) -> None:
        self._current: dict[int, dict[str, WorkerReport]] = {}
        self._retired = Totals()
        self._incarnations: dict[int, int] = {}

    def record(self, report: WorkerReport) -> None:
        """Takes a worker's newest report.

        A process that is being replaced goes on reporting while it drains, beside its successor in the same slot; the
        one before the last few is taken for dead.
        """
        slot = self._current.setdefault(report.worker, {})
        previous = slot.get(report.incarnation)
        if previous is not None:
            self._retire_missing(previous, report)
        else:
            self._incarnations[report.worker] = self._incarnations.get(report.worker, 0) + 1
            while len(slot) >= _PER_SLOT:
                self._retired.add_report(slot.pop(next(iter(slot))))
        slot[report.incarnation] = report

    def forget_routes(self, known: frozenset[str]) -> None:
        """Drops what retired processes counted for routes that exist no more, so that it cannot pile up."""
        for slot in self._current.values():
            for report in list(slot.values())[:-1]:
                report.variants = [row for row in report.variants if row.route in known]
                report.shadows = [row for row in report.shadows if row.route in known]
                report.faults = [row for row in report.faults if not row[0] or row[0] in known]
        retired = self._retired
        retired.variants = {key: row for key, row in retired.variants.items() if key[0] in known}
        retired.shadows = {key: row for key, row in retired.shadows.items() if key[0] in known}
        retired.faults = {key: n for key, n in retired.faults.items() if not key[0] or key[0] in known}

    def totals(self) -> Totals:
        """Sums over all workers that ever reported."""
        sums = Totals()
        retired = self._retired
        sums.add_variants(retired.variants.values())
        sums.add_shadows(retired.shadows.values())
        sums.add_faults((*key, count) for key, count in retired.faults.items())
        sums.backends = {key: dict(row) for key, row in retired.backends.items()}
        sums.accepted, sums.retries = retired.accepted, retired.retries
        for slot in self._current.values():
            for report in slot.values():
                sums.add_report(report)
        return sums

    def reports(self) -> list[WorkerReport]:
        """The last report of the newest process in each slot, by slot."""
        return [list(self._current[slot].values())[-1] for slot in sorted(self._current)]

    def incarnations(self) -> Mapping[int, int]:
        """How many processes each slot has had."""
        return self._incarnations

    def _retire_missing(self, previous: WorkerReport, report: WorkerReport) -> None:
        """Keeps the counts of rows that a worker has dropped (an old epoch, a route that is gone)."""
        variants = {(row.route, row.variant, row.epoch, row.pinned) for row in report.variants}
        gone = (row for row in previous.variants if (row.route, row.variant, row.epoch, row.pinned) not in variants)
        self._retired.add_variants(gone)
        shadows = {(row.route, row.variant, row.epoch) for row in report.shadows}
        lost = (row for row in previous.shadows if (row.route, row.variant, row.epoch) not in shadows)
        self._retired.add_shadows(lost)
        faults = {(route, code) for route, code, _ in report.faults}
        self._retired.add_faults(row for row in previous.faults if row[:2] not in faults)
        backends = {(row.pool, row.url) for row in report.backends}
        self._retired.add_backends(row for row in previous.backends if (row.pool, row.url) not in backends)


def _plus(a: list[int], b: list[int], size: int) -> list[int]:
    """Sum of two count vectors; missing places count as zero."""
    if len(a) == len(b) == size:
        return [x + y for x, y in zip(a, b, strict=True)]
    return [(a[i] if i < len(a) else 0) + (b[i] if i < len(b) else 0) for i in range(size)]


def _add_fields(into: object, row: object, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(into, name, getattr(into, name) + getattr(row, name))


def _merge(into: dict[K, int], row: Mapping[K, int]) -> None:
    for key, count in row.items():
        into[key] = into.get(key, 0) + count
