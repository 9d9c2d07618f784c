"""Latency histograms keep their promise on error and lose nothing when merged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import histogram

MICROSECONDS = st.integers(0, histogram.MAX_US)


@given(value=MICROSECONDS)
def test_a_bucket_is_within_one_128th_of_its_values(value: int) -> None:
    """The middle of the bucket that holds a value is off by at most half a bucket, 1/256 of the value."""
    assert abs(histogram.midpoint_us(histogram.bucket_of(value)) - value) <= max(0.5, value / 256)


@given(a=MICROSECONDS, b=MICROSECONDS)
def test_buckets_keep_the_order(a: int, b: int) -> None:
    """A larger value never falls into a lower bucket."""
    low, high = sorted((a, b))
    assert histogram.bucket_of(low) <= histogram.bucket_of(high)


def test_values_beyond_the_range_are_clamped() -> None:
    """Negative times count as 0 and everything above an hour as an hour."""
    assert histogram.bucket_of(-5) == histogram.bucket_of(0)
    assert histogram.bucket_of(10**18) == histogram.bucket_of(histogram.MAX_US)


@given(values=st.lists(MICROSECONDS, min_size=1, max_size=200), q=st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_quantiles_are_those_of_the_values(values: list[int], q: float) -> None:
    """A quantile is the value of nearest rank, to within a bucket."""
    buckets = histogram.merge({histogram.bucket_of(v): 1} for v in values)
    exact = sorted(values)[max(1, int(np.ceil(q * len(values)))) - 1]
    assert histogram.quantile_us(buckets, q) == pytest.approx(exact, rel=1 / 256, abs=0.5)


@given(values=st.lists(st.integers(0, 10**7), min_size=1, max_size=200))
def test_the_mean_is_within_a_bucket(values: list[int]) -> None:
    """The mean is that of the values, to within a bucket."""
    buckets = histogram.merge({histogram.bucket_of(v): 1} for v in values)
    assert histogram.mean_us(buckets) == pytest.approx(sum(values) / len(values), rel=1 / 256, abs=0.5)


def test_an_empty_histogram_knows_nothing() -> None:
    """No values means no quantile and no mean, not zero."""
    assert histogram.quantile_us({}, 0.5) is None
    assert histogram.mean_us({}) is None


def test_dense_rows_are_the_histograms() -> None:
    """Rows over common buckets keep every count, also where a histogram is empty."""
    parts = [{3: 2, 500: 1}, {}, {500: 4}]
    middles, counts = histogram.dense(parts)
    assert middles.tolist() == [histogram.midpoint_us(3), histogram.midpoint_us(500)]
    assert counts.tolist() == [[2, 1], [0, 0], [0, 4]]
