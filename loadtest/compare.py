"""Two sets of time slices set side by side: ratios with bootstrap confidence intervals.

Requests within a second share their luck (a pause, a batch, a neighbour), so whole slices of time are resampled,
never single requests. Two parts of one run (arms that took turns, variants that ran side by side) have slices that
belong together and are resampled as pairs, which takes slow changes of the machine out of the comparison.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from loadtest import histogram
from loadtest.summary import Cell

MIN_SLICES: Final = 8
CONFIDENCE: Final = 0.95
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
    metrics: list[tuple[str, _Metric]] = [
        *((f"latency_p{round(100 * q)}_ms", partial(_quantile, q=q)) for q in (0.5, 0.9, 0.99)),
        ("latency_mean_ms", _mean),
        ("rate_per_s", _rate),
        ("error_rate", _error_rate),
    ]
    return Comparison(
        a=a.name,
        b=b.name,
        confidence=CONFIDENCE,
        slices_a=len(a.slices),
        slices_b=len(b.slices),
        paired=paired,
        lines=[_line(name, metric, sides, paired, seed) for name, metric in metrics],
    )


class _Counts(msgspec.Struct, frozen=True):
    """Counts of one side, a row for each slice."""

    middles_ms: NDArray[np.float64]
    latency: _Floats
    errors: _Floats
    slice_s: float


_Metric = Callable[[_Counts, _Index], _Floats]


def _counts(side: Side) -> _Counts:
    by_slice: dict[int, list[Cell]] = {i: [] for i in side.slices}
    for cell in side.cells:
        if cell.slice in by_slice:
            by_slice[cell.slice].append(cell)
    middles, latency = histogram.dense(histogram.merge(c.latency for c in cells) for cells in by_slice.values())
    errors = np.array([sum(sum(c.errors.values()) for c in cells) for cells in by_slice.values()], dtype=np.float64)
    # Floats, though they are counts: only for floats is a matrix product fast.
    return _Counts(middles / 1000, latency.astype(np.float64), errors, side.slice_s)


def _totals(counts: _Counts, rows: _Index) -> tuple[_Floats, _Floats]:
    """Latency histogram [..., buckets] and errors [...] of each drawing of slices in `rows` [..., drawn]."""
    weights = np.zeros((*rows.shape[:-1], len(counts.errors)))
    drawings = weights.reshape(-1, weights.shape[-1])
    np.add.at(drawings, (np.arange(len(drawings))[:, None], rows.reshape(len(drawings), -1)), 1)
    return weights @ counts.latency, weights @ counts.errors


def _quantile(counts: _Counts, rows: _Index, q: float) -> _Floats:
    cumulative = np.cumsum(_totals(counts, rows)[0], axis=-1)
    if not counts.middles_ms.size:
        return np.full(rows.shape[:-1], np.nan)
    total = cumulative[..., -1:]
    found = counts.middles_ms[(cumulative >= np.maximum(1.0, np.ceil(q * total))).argmax(axis=-1)]
    known: _Floats = np.where(total[..., 0] > 0, found, np.nan)
    return known


def _mean(counts: _Counts, rows: _Index) -> _Floats:
    latency = _totals(counts, rows)[0]
    return _over(latency @ counts.middles_ms, latency.sum(axis=-1))


def _rate(counts: _Counts, rows: _Index) -> _Floats:
    return _totals(counts, rows)[0].sum(axis=-1) / (rows.shape[-1] * counts.slice_s)


def _error_rate(counts: _Counts, rows: _Index) -> _Floats:
    latency, bad = _totals(counts, rows)
    return _over(bad, bad + latency.sum(axis=-1))


def _over(numerator: _Floats, denominator: _Floats) -> _Floats:
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)


def _line(name: str, metric: _Metric, sides: tuple[_Counts, _Counts], paired: bool, seed: int) -> Line:
    difference = name == "error_rate"

    def contrast(rows_a: _Index, rows_b: _Index, axis: int = -1) -> _Floats:
        # scipy draws along the last axis, which is the one our metrics reduce.
        x, y = metric(sides[0], np.moveaxis(rows_a, axis, -1)), metric(sides[1], np.moveaxis(rows_b, axis, -1))
        return x - y if difference else _over(x, y)

    rows_a, rows_b = (np.arange(len(side.errors)) for side in sides)
    a, b = float(metric(sides[0], rows_a)), float(metric(sides[1], rows_b))
    ratio = float(contrast(rows_a, rows_b))
    low = high = float("nan")
    if min(len(rows_a), len(rows_b)) >= MIN_SLICES and np.isfinite(ratio):
        interval = stats.bootstrap(
            (rows_a, rows_b), contrast, vectorized=True, paired=paired, n_resamples=_RESAMPLES, batch=_BATCH,
            confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        low, high = float(interval.low), float(interval.high)
    return Line(
        metric=name, a=_known(a), b=_known(b), ratio=_known(ratio), low=_known(low), high=_known(high),
        finding=_finding(low, high, 0.0 if difference else 1.0),
    )  # fmt: skip


def _finding(low: float, high: float, neutral: float) -> Finding:
    if not (np.isfinite(low) and np.isfinite(high)):
        return "unknown"
    if high < neutral:
        return "lower"
    return "higher" if low > neutral else "no difference shown"


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
