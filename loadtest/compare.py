"""Two sets of time slices set side by side: ratios with bootstrap confidence intervals.

Requests within a second share their luck (a pause, a batch, a neighbour), so whole slices of time are resampled,
never single requests. Two parts of one run (arms that took turns, variants that ran side by side) have slices that
belong together and are resampled as pairs, which takes slow changes of the machine out of the comparison.
"""

import warnings
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from loadtest import histogram
from loadtest.summary import Cell

MIN_SLICES: Final = 8
CONFIDENCE: Final = 0.95
METRICS: Final = (
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "latency_mean_ms",
    "rate_per_s",
    "error_rate",
)
_QUANTILES: Final = (0.5, 0.9, 0.99)
_RESAMPLES: Final = 2000
_BATCH: Final = 200

Finding = Literal["lower", "higher", "no difference shown", "unknown"]
_Index = NDArray[np.int64]
_Floats = NDArray[np.float64]


class Line(msgspec.Struct, frozen=True):
    """A metric of `a` and `b`, the ratio a/b and its confidence interval; None where it cannot be told.

    For `error_rate` the difference a-b stands in place of the ratio, since the ratio to a rate of 0 says nothing.
    """

    metric: str
    a: float | None
    b: float | None
    ratio: float | None
    low: float | None
    high: float | None
    finding: Finding


class Comparison(msgspec.Struct, frozen=True):
    """The lines, how many slices each side had, and whether they were resampled as pairs."""

    a: str
    b: str
    confidence: float
    slices_a: int
    slices_b: int
    paired: bool
    lines: list[Line]


class Side(msgspec.Struct, frozen=True):
    """One side: its cells, the slices it was driven in (also those in which nothing happened), their width."""

    name: str
    cells: Sequence[Cell]
    slices: Sequence[int]
    slice_s: float


def compare(a: Side, b: Side, *, paired: bool, seed: int = 0) -> Comparison:
    """Compare side `a` with side `b`; `paired` when both are parts of one run, slice by slice."""
    if paired:
        both = min(len(a.slices), len(b.slices))
        a, b = (Side(s.name, s.cells, s.slices[:both], s.slice_s) for s in (a, b))
    sides = _counts(a), _counts(b)
    rows = np.arange(len(a.slices)), np.arange(len(b.slices))
    values = [_metrics(side, index) for side, index in zip(sides, rows, strict=True)]

    def contrasts(rows_a: _Index, rows_b: _Index, axis: int = -1) -> _Floats:
        # scipy draws along the last axis, which is the one that the metrics reduce.
        return _contrast(*(_metrics(s, np.moveaxis(r, axis, -1)) for s, r in zip(sides, (rows_a, rows_b), strict=True)))

    low = high = np.full(len(METRICS), np.nan)
    if min(map(len, rows)) >= MIN_SLICES:
        with warnings.catch_warnings():
            # A metric that one side does not have gives no interval; that is said by leaving it unknown.
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            interval = stats.bootstrap(
                rows, contrasts, vectorized=True, paired=paired, n_resamples=_RESAMPLES, batch=_BATCH,
                confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
        low, high = interval.low, interval.high
    found = zip(METRICS, *values, _contrast(*values), low, high, strict=True)
    return Comparison(
        a=a.name,
        b=b.name,
        confidence=CONFIDENCE,
        slices_a=len(a.slices),
        slices_b=len(b.slices),
        paired=paired,
        lines=[_line(name, *map(float, numbers)) for name, *numbers in found],
    )


class _Counts(msgspec.Struct, frozen=True):
    """Counts of one side, a row for each slice."""

    middles_ms: _Floats
    latency: sparse.csr_array
    errors: _Floats
    slice_s: float


def _counts(side: Side) -> _Counts:
    by_slice: dict[int, list[Cell]] = {i: [] for i in side.slices}
    for cell in side.cells:
        if cell.slice in by_slice:
            by_slice[cell.slice].append(cell)
    middles, latency = histogram.dense(histogram.merge(c.latency for c in cells) for cells in by_slice.values())
    errors = np.array([sum(sum(c.errors.values()) for c in cells) for cells in by_slice.values()], dtype=np.float64)
    return _Counts(middles / 1000, sparse.csr_array(latency, dtype=np.float64), errors, side.slice_s)


def _metrics(counts: _Counts, rows: _Index) -> _Floats:
    """METRICS [metrics, ...] of each drawing of slices in `rows` [..., drawn]."""
    drawings = rows.reshape(-1, rows.shape[-1])
    weights = np.zeros((len(drawings), len(counts.errors)))
    np.add.at(weights, (np.arange(len(drawings))[:, None], drawings), 1)
    # Sparse: a slice uses few of the buckets, and a dense product would start threads on a machine that is busy.
    latency, bad = np.asarray(weights @ counts.latency), weights @ counts.errors
    good = latency.sum(axis=-1)
    cumulative = np.cumsum(latency, axis=-1)
    found = [_quantile(counts.middles_ms, cumulative, good, q) for q in _QUANTILES]
    found += [
        _over(latency @ counts.middles_ms, good),
        good / (rows.shape[-1] * counts.slice_s),
        _over(bad, bad + good),
    ]
    return np.stack(found).reshape(len(METRICS), *rows.shape[:-1])


def _quantile(middles: _Floats, cumulative: _Floats, good: _Floats, q: float) -> _Floats:
    if not middles.size:
        return np.full_like(good, np.nan)
    first = (cumulative >= np.maximum(1.0, np.ceil(q * good))[:, None]).argmax(axis=-1)
    known: _Floats = np.where(good > 0, middles[first], np.nan)
    return known


def _over(numerator: _Floats, denominator: _Floats) -> _Floats:
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)


def _contrast(a: _Floats, b: _Floats) -> _Floats:
    """Ratios of the metrics, and the difference of the last, the error rate."""
    return np.concatenate([_over(a[:-1], b[:-1]), a[-1:] - b[-1:]])


def _line(name: str, a: float, b: float, ratio: float, low: float, high: float) -> Line:
    neutral = 0.0 if name == METRICS[-1] else 1.0
    return Line(
        metric=name, a=_known(a), b=_known(b), ratio=_known(ratio), low=_known(low), high=_known(high),
        finding=_finding(low, high, neutral),
    )  # fmt: skip


def _finding(low: float, high: float, neutral: float) -> Finding:
    if not (np.isfinite(low) and np.isfinite(high)):
        return "unknown"
    if high < neutral:
        return "lower"
    return "higher" if low > neutral else "no difference shown"


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
