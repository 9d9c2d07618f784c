"""A latency histogram whose buckets are fixed for ever, so that counts add up over workers, nodes and time.

Eight buckets per power of two (as in HdrHistogram): a bucket is at most 12.5 % wide. Values are microseconds;
everything from 2^27 us (134 s) up falls into the last bucket.
"""

from collections.abc import Sequence

BUCKETS = 200


def index(us: int) -> int:
    """The bucket of a duration in microseconds (negative durations count as zero)."""
    if us < 16:
        return max(0, us)
    shift = us.bit_length() - 4
    found = (shift << 3) + (us >> shift)
    return found if found < BUCKETS else BUCKETS - 1


def upper_us(bucket: int) -> int:
    """Exclusive upper bound of a bucket in microseconds."""
    if bucket < 16:
        return bucket + 1
    shift = (bucket >> 3) - 1
    return ((bucket & 7) + 9) << shift


def quantile_us(counts: Sequence[int], q: float) -> float:
    """The q-quantile in microseconds, interpolated inside its bucket; nan without a count."""
    total = sum(counts)
    if not total:
        return float("nan")
    rank, below = q * total, 0
    for bucket, count in enumerate(counts):
        if count and below + count >= rank:
            low = upper_us(bucket - 1) if bucket else 0
            return low + (upper_us(bucket) - low) * max(rank - below, 0.0) / count
        below += count
    return float(upper_us(len(counts) - 1))
