"""A latency histogram whose buckets are fixed for ever, so that counts add up over workers, nodes and time.

Upper bounds are the preferred numbers R20 (ISO 3) from 0.1 ms to 100 s: buckets are 12 % wide and the usual
objectives (20 ms, 50 ms, 100 ms, 1 s) are bounds, so that "slower than" is an exact count. Bucket i holds
bounds[i - 1] < value <= bounds[i]; a last bucket takes everything slower.
"""

from bisect import bisect_left
from collections.abc import Sequence

_R20 = (100, 112, 125, 140, 160, 180, 200, 224, 250, 280, 315, 355, 400, 450, 500, 560, 630, 710, 800, 900)
BOUNDS_US: tuple[int, ...] = (*(step * 10**decade for decade in range(6) for step in _R20), 100_000_000)
BUCKETS = len(BOUNDS_US) + 1


def index(us: float) -> int:
    """The bucket of a duration in microseconds."""
    return bisect_left(BOUNDS_US, us)


def upper_us(bucket: int) -> float:
    """Inclusive upper bound of a bucket in microseconds; infinity for the last one."""
    return BOUNDS_US[bucket] if bucket < len(BOUNDS_US) else float("inf")


def quantile_us(counts: Sequence[int], q: float) -> float:
    """The q-quantile in microseconds, interpolated inside its bucket; nan without a count.

    A quantile in the last bucket is reported as that bucket's lower bound.
    """
    total = sum(counts)
    if not total:
        return float("nan")
    rank, below = q * total, 0
    for bucket, count in enumerate(counts):
        if count and below + count >= rank:
            low = BOUNDS_US[bucket - 1] if bucket else 0
            high = BOUNDS_US[bucket] if bucket < len(BOUNDS_US) else low
            return low + (high - low) * max(rank - below, 0.0) / count
        below += count
    raise AssertionError("the ranks of all buckets sum to the total")
