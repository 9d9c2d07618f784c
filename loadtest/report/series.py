"""Figures over time out of a result's cells, ready to be drawn."""

from collections.abc import Iterable, Sequence

import msgspec

from loadtest import histogram
from loadtest.results import Result
from loadtest.summary import Cell


class Track(msgspec.Struct, frozen=True):
    """One line per metric over time for an arm or variant; None where a slice has no answer."""

    name: str
    t: list[float]
    rate: list[float]
    p50: list[float | None]
    p90: list[float | None]
    p99: list[float | None]
    errors: list[float]


def tracks(result: Result) -> list[Track]:
    """A track per arm; in a run with one arm, one per variant as soon as there are two."""
    slicing = result.slicing
    everything = list(range(int(-(-result.duration_s // result.slice_s))))
    found: list[Track] = []
    for i, arm in enumerate(result.arms):
        mine = [c for c in result.cells if c.arm == arm.name]
        driven = [s for s in everything if slicing.arm_of(s) == i]
        found.append(_track(arm.name, mine, driven, result.slice_s))
        variants = sorted({c.variant for c in mine} - {""})
        if len(variants) > 1:
            found += [
                _track(f"{arm.name} {v}", [c for c in mine if c.variant == v], driven, result.slice_s) for v in variants
            ]
    return found


def _track(name: str, cells: Sequence[Cell], slices: Sequence[int], width: float) -> Track:
    by_slice: dict[int, list[Cell]] = {i: [] for i in slices}
    for cell in cells:
        by_slice.setdefault(cell.slice, []).append(cell)
    merged = {i: histogram.merge(c.latency for c in by_slice[i]) for i in sorted(by_slice)}

    def quantile(q: float) -> list[float | None]:
        values = (histogram.quantile_us(m, q) for m in merged.values())
        return [None if v is None else v / 1000 for v in values]

    return Track(
        name=name,
        t=[(i + 0.5) * width for i in merged],
        rate=[sum(m.values()) / width for m in merged.values()],
        p50=quantile(0.5),
        p90=quantile(0.9),
        p99=quantile(0.99),
        errors=[_failed(by_slice[i]) / width for i in merged],
    )


def measured(result: Result, arm: str) -> dict[int, int]:
    """Latency histogram of an arm after the warm-up."""
    first = result.warmup_s / result.slice_s
    return histogram.merge(c.latency for c in result.cells if c.arm == arm and c.slice >= first)


def _failed(cells: Iterable[Cell]) -> int:
    return sum(sum(c.errors.values()) for c in cells)
