"""Latency buckets that add up for ever."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.histogram import BOUNDS_US, BUCKETS, index, quantile_us, upper_us


def test_bounds() -> None:
    """They grow by 10 to 15 per cent and hold the usual objectives; kept counts depend on them for ever."""
    steps = [b / a for a, b in pairwise(BOUNDS_US)]
    assert all(1.09 < step < 1.15 for step in steps)
    assert {20_000, 50_000, 100_000, 1_000_000} <= set(BOUNDS_US)
    assert (BOUNDS_US[0], BOUNDS_US[-1], BUCKETS) == (100, 100_000_000, 122)


@given(st.floats(0, 1e9))
def test_a_value_lies_in_its_bucket(us: float) -> None:
    """Above the bound before, not above its own."""
    bucket = index(us)
    assert us <= upper_us(bucket)
    assert bucket == 0 or us > upper_us(bucket - 1)


@given(st.lists(st.floats(101, 99e6), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantiles_are_as_exact_as_buckets(values: list[float], q: float) -> None:
    """A quantile is off by no more than its bucket is wide."""
    counts = [0] * BUCKETS
    for value in values:
        counts[index(value)] += 1
    exact = sorted(values)[max(math.ceil(q * len(values)) - 1, 0)]
    assert exact / 1.16 <= quantile_us(counts, q) <= exact * 1.16


def test_quantile_edges() -> None:
    """No count has no quantile; what is slower than everything is reported as the last bound."""
    assert math.isnan(quantile_us([0] * BUCKETS, 0.5))
    slow = [0] * BUCKETS
    slow[-1] = 5
    assert quantile_us(slow, 0.5) == pytest.approx(BOUNDS_US[-1])
    assert upper_us(BUCKETS - 1) == math.inf
