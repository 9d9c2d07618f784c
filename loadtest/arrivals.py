"""Intended send times of open-loop load: they depend on the shape and the seed, never on the answers."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from loadtest.shapes import Shape

Spacing = Literal["poisson", "even"]
_GRID_S = 0.001
_CHUNK_S = 1.0


def intended_times(shape: Shape, *, share: float, spacing: Spacing, seed: int) -> Iterator[float]:
    """Yield the send times in seconds, in order, of one worker that carries `share` of the shape's rate.

    `poisson` draws independent exponential gaps (real users do not take turns); `even` spaces requests regularly.
    Times are computed a second ahead, so memory stays constant however long the run is.
    """
    rng = np.random.default_rng(seed)
    due = float(rng.exponential()) if spacing == "poisson" else float(rng.random())
    start = 0.0
    while start < shape.duration_s:
        end = min(start + _CHUNK_S, shape.duration_s)
        grid = np.linspace(start, end, max(2, int((end - start) / _GRID_S) + 1))
        arrived = shape.cumulative(grid) * share
        while due <= arrived[-1]:
            yield float(np.interp(due, arrived, grid))
            due += float(rng.exponential()) if spacing == "poisson" else 1.0
        start = end
