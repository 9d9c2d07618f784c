"""Seeded random tensors of a declared shape, for models whose data set is not at hand (images, tokens, ...)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loadtest.v2body import DATATYPES, Tensors

_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


def batches(
    tensors: Sequence[tuple[str, str, Sequence[int], tuple[float, float]]], *, batch: int, count: int, seed: int
) -> list[Tensors]:
    """`count` requests of `batch` items.

    Args:
        tensors: name, V2 datatype, shape without the batch axis, and the half-open range of values, for each input.
        batch: items in each request.
        count: different requests to make.
        seed: the same seed gives the same tensors.
    """
    rng = np.random.default_rng(seed)

    def draw(datatype: str, shape: Sequence[int], low: float, high: float) -> "NDArray[np.generic]":
        dtype = np.dtype(_DTYPES[datatype])
        full = (batch, *shape)
        if dtype.kind in "iu":
            return rng.integers(int(low), int(high), full, dtype=dtype)
        return rng.uniform(low, high, full).astype(dtype)

    return [{name: draw(datatype, shape, *bounds) for name, datatype, shape, bounds in tensors} for _ in range(count)]
