"""How much load there is at each moment: a level (users, or requests per second) over time.

A shape is a piecewise linear curve. Two points at the same time are a jump; the later one holds from then on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Shape:
    """Points (seconds, level) in order of time; the first is at 0 and the last ends the run."""

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        times = [t for t, _ in self.points]
        if len(times) < 2 or times[0] != 0 or times[-1] <= 0:
            raise ValueError("a shape starts at 0 s and lasts a positive time")
        if any(b < a for a, b in pairwise(times)) or any(level < 0 for _, level in self.points):
            raise ValueError("a shape's times must not go back and its levels must not be negative")

    @property
    def duration_s(self) -> float:
        """Length of the run in seconds."""
        return self.points[-1][0]

    @property
    def peak(self) -> float:
        """The highest level reached."""
        return max(level for _, level in self.points)

    def level_at(self, t: float) -> float:
        """Level at `t` seconds; the end levels hold outside the run."""
        for (t0, v0), (t1, v1) in pairwise(self.points):
            if t0 <= t < t1:
                return v0 + (v1 - v0) * (t - t0) / (t1 - t0)
        return self.points[0][1] if t < 0 else self.points[-1][1]

    def cumulative(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Integral of the level from 0 to each of `times`: requests due by then when the level is a rate."""
        total = np.zeros_like(times)
        for (t0, v0), (t1, v1) in pairwise(self.points):
            if t1 == t0:
                continue
            x = np.clip(times, t0, t1) - t0
            total += v0 * x + (v1 - v0) / (t1 - t0) * x * x / 2
        return total

    def scaled(self, *, level: float = 1.0, time: float = 1.0) -> "Shape":
        """The same curve with all levels and all times multiplied."""
        return Shape(tuple((t * time, v * level) for t, v in self.points))


def steady(level: float, duration_s: float) -> Shape:
    """One level throughout; a soak is a steady shape that lasts for hours."""
    return Shape(((0.0, level), (duration_s, level)))


def ramp(start: float, end: float, duration_s: float) -> Shape:
    """A straight line from one level to another."""
    return Shape(((0.0, start), (duration_s, end)))


def step(levels: Sequence[float], each_s: float) -> Shape:
    """Stairs: every level is held for the same time."""
    points: list[Point] = []
    for i, level in enumerate(levels):
        points += [(i * each_s, level), ((i + 1) * each_s, level)]
    return Shape(tuple(points))


def spike(base: float, peak: float, at_s: float, spike_s: float, duration_s: float) -> Shape:
    """A base level that jumps to `peak` at `at_s` for `spike_s` seconds and falls back."""
    if at_s + spike_s > duration_s:
        raise ValueError("the spike must end within the run")
    end = at_s + spike_s
    return Shape(((0.0, base), (at_s, base), (at_s, peak), (end, peak), (end, base), (duration_s, base)))


def twice_peak(peak: float, ramp_s: float, hold_s: float) -> Shape:
    """Up to the expected peak, held; up to twice the peak, held; back to the peak, held to see recovery."""
    r, h = ramp_s, hold_s
    return Shape(
        (
            (0.0, 0.0),
            (r, peak),
            (r + h, peak),
            (2 * r + h, 2 * peak),
            (2 * r + 2 * h, 2 * peak),
            (3 * r + 2 * h, peak),
            (3 * r + 3 * h, peak),
        )
    )
