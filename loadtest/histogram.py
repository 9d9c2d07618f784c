"""Latency histogram with bounded relative error, mergeable across workers and time.

Values are whole microseconds. Up to 255 each value has its own bucket; above, every power of two is cut into 128
equal buckets, so a bucket is never wider than 1/128 of its value (the log-linear layout of HdrHistogram).
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Buckets = dict[int, int]

_SUB_BITS = 7
_SUB = 1 << _SUB_BITS
MAX_US = 3_600_000_000


def bucket_of(value_us: int) -> int:
    """Index of the bucket that holds `value_us`; values are clamped into 0 .. one hour."""
    value = min(max(value_us, 0), MAX_US)
    shift = max(value.bit_length() - _SUB_BITS - 1, 0)
    return (shift << _SUB_BITS) + (value >> shift)


def midpoint_us(bucket: int) -> float:
    """Middle of the values that fall into `bucket`, in microseconds."""
    shift = max((bucket >> _SUB_BITS) - 1, 0)
    low = (bucket - (shift << _SUB_BITS)) << shift
    return low + ((1 << shift) - 1) / 2


def merge(parts: Iterable[Mapping[int, int]]) -> Buckets:
    """Sum of histograms."""
    total: Buckets = {}
    for part in parts:
        for bucket, count in part.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def quantile_us(buckets: Mapping[int, int], q: float) -> float | None:
    """The q-quantile (nearest rank) in microseconds, or None for an empty histogram."""
    total = sum(buckets.values())
    if total == 0:
        return None
    rank = max(1, int(np.ceil(q * total)))
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            return midpoint_us(bucket)
    raise AssertionError("rank lies within the histogram")


def mean_us(buckets: Mapping[int, int]) -> float | None:
    """Mean in microseconds, or None for an empty histogram."""
    total = sum(buckets.values())
    return sum(midpoint_us(b) * n for b, n in buckets.items()) / total if total else None


def dense(parts: Iterable[Mapping[int, int]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Histograms as rows of one matrix over their common buckets.

    Returns:
        (midpoints in microseconds [B], counts [rows, B]).
    """
    rows = list(parts)
    used = sorted({bucket for row in rows for bucket in row})
    column = {bucket: i for i, bucket in enumerate(used)}
    counts = np.zeros((len(rows), len(used)), dtype=np.int64)
    for i, row in enumerate(rows):
        for bucket, count in row.items():
            counts[i, column[bucket]] = count
    return np.array([midpoint_us(b) for b in used]), counts
