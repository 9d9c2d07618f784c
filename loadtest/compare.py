"""Two sets of time slices set side by side: ratios with bootstrap confidence intervals.

Requests within a second share their luck (a pause, a batch, a neighbour), so whole slices of time are resampled,
never single requests. In a run with two arms the slices come in neighbouring pairs and are resampled as pairs, which
takes slow changes of the machine out of the comparison.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from loadtest import histogram
from loadtest.summary import Cell

MIN_SLICES: Final = 8
_RESAMPLES: Final = 2000
_QUANTILES: Final = (("latency_p50_ms", 0.5), ("latency_p90_ms", 0.9), ("latency_p99_ms", 0.99))

Finding = Literal["lower", "higher", "no difference shown", "unknown"]


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
    """One side: its cells and the width of a slice in seconds. `pair_of` gives pairs their common number."""

    name: str
    cells: Sequence[Cell]
    slice_s: float


def compare(a: Side, b: Side, *, pair_slices: int = 0, confidence: float = 0.95, seed: int = 0) -> Comparison:
    """Compare two sides.

    Args:
        a: the side above the fraction line.
        b: the side below it.
        pair_slices: slices that make a pair when both sides are arms of one run; 0 for independent runs.
        confidence: of the intervals.
        seed: of the resampling.
    """
    blocks_a, blocks_b = _blocks(a.cells, pair_slices), _blocks(b.cells, pair_slices)
    if pair_slices:
        both = sorted(blocks_a.keys() & blocks_b.keys())
        blocks_a, blocks_b = {k: blocks_a[k] for k in both}, {k: blocks_b[k] for k in both}
    table = _Table(list(blocks_a.values()), list(blocks_b.values()))
    enough = min(len(blocks_a), len(blocks_b)) >= MIN_SLICES
    lines = [
        _line(name, table, _Metric(name, q, a.slice_s, b.slice_s), bool(pair_slices), confidence, seed, enough)
        for name, q in (*_QUANTILES, ("latency_mean_ms", None), ("rate_per_s", None), ("error_rate", None))
    ]
    return Comparison(
        a=a.name, b=b.name, confidence=confidence, slices_a=len(blocks_a), slices_b=len(blocks_b),
        paired=bool(pair_slices), lines=lines,
    )  # fmt: skip
