"""Two sets of time slices set side by side: ratios with bootstrap confidence intervals.

Requests within a second share their luck (a pause, a batch, a neighbour), so whole slices of time are resampled,
never single requests. Two parts of one run (arms that took turns, variants that ran side by side) have slices that
belong together and are resampled as pairs, which takes slow changes of the machine out of the comparison.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from loadtest import histogram
from loadtest.summary import Cell

MIN_SLICES: Final = 8
CONFIDENCE: Final = 0.95
_RESAMPLES: Final = 2000

Finding = Literal["lower", "higher", "no difference shown", "unknown"]
_Index = NDArray[np.int64]


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
    metrics: list[tuple[str, Callable[[_Counts, _Index], float]]] = [
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
    latency: NDArray[np.int64]
    errors: NDArray[np.int64]
    slice_s: float


def _counts(side: Side) -> _Counts:
    by_slice: dict[int, list[Cell]] = {i: [] for i in side.slices}
    for cell in side.cells:
        if cell.slice in by_slice:
            by_slice[cell.slice].append(cell)
    middles, latency = histogram.dense(histogram.merge(c.latency for c in cells) for cells in by_slice.values())
    errors = np.array([sum(sum(c.errors.values()) for c in cells) for cells in by_slice.values()], dtype=np.int64)
    return _Counts(middles / 1000, latency, errors, side.slice_s)


def _quantile(counts: _Counts, rows: _Index, q: float) -> float:
    cumulative = np.cumsum(counts.latency[rows].sum(axis=0))
    if not cumulative.size or cumulative[-1] == 0:
        return float("nan")
    return float(counts.middles_ms[np.searchsorted(cumulative, max(1.0, np.ceil(q * cumulative[-1])))])


def _mean(counts: _Counts, rows: _Index) -> float:
    total = counts.latency[rows].sum(axis=0)
    return float(total @ counts.middles_ms / total.sum()) if total.sum() else float("nan")


def _rate(counts: _Counts, rows: _Index) -> float:
    return float(counts.latency[rows].sum() / (len(rows) * counts.slice_s)) if len(rows) else float("nan")


def _error_rate(counts: _Counts, rows: _Index) -> float:
    bad = counts.errors[rows].sum()
    everything = bad + counts.latency[rows].sum()
    return float(bad / everything) if everything else float("nan")


def _line(
    name: str, metric: Callable[[_Counts, _Index], float], sides: tuple[_Counts, _Counts], paired: bool, seed: int
) -> Line:
    side_a, side_b = sides
    difference = name == "error_rate"

    def contrast(rows_a: Any, rows_b: Any) -> float:
        x, y = metric(side_a, rows_a), metric(side_b, rows_b)
        if difference:
            return x - y
        return x / y if y else float("nan")

    rows_a, rows_b = np.arange(len(side_a.errors)), np.arange(len(side_b.errors))
    a, b, ratio = metric(side_a, rows_a), metric(side_b, rows_b), contrast(rows_a, rows_b)
    low = high = float("nan")
    if min(len(rows_a), len(rows_b)) >= MIN_SLICES and np.isfinite(ratio):
        interval = stats.bootstrap(
            (rows_a, rows_b), contrast, vectorized=False, paired=paired, n_resamples=_RESAMPLES,
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
