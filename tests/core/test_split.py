"""Weighted choice: shares, edges, and keys that move only one way."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from gateway.core.split import pick, sticky_point, thresholds

_weights = st.lists(st.floats(0, 100), min_size=1, max_size=8).filter(lambda ws: sum(ws) > 1e-6)


@given(_weights, st.floats(0, 1, exclude_max=True))
def test_a_variant_of_weight_zero_is_never_picked(weights: list[float], point: float) -> None:
    """Every point has a variant, and that variant has a weight."""
    assert weights[pick(thresholds(weights), point)] > 0


@given(_weights)
def test_stretches_are_the_shares(weights: list[float]) -> None:
    """Each variant's stretch of the line is its share of the sum, up to rounding."""
    below, total = 0.0, sum(weights)
    for bound, i in thresholds(weights):
        assert min(bound, 1.0) - below == pytest.approx(weights[i] / total, abs=1e-9)
        below = min(bound, 1.0)
    assert below == 1.0


def test_points_outside_the_line() -> None:
    """The last stretch reaches beyond one, so rounding never leaves a draw without a variant."""
    assert pick(thresholds([30.0, 70.0]), 1.0) == 0
    with pytest.raises(ValueError, match="outside"):
        pick(thresholds([30.0, 70.0]), 2.5)


def test_sticky_points_are_uniform() -> None:
    """Ten thousand keys fall evenly into ten stretches."""
    counts = Counter(int(sticky_point(b"user-%d" % i, b"salt") * 10) for i in range(10_000))
    assert chisquare([counts[i] for i in range(10)]).pvalue > 1e-6


def test_salts_are_independent() -> None:
    """Half of the keys of one salt's lower half lie in another's lower half."""
    low = [i for i in range(4000) if sticky_point(b"%d" % i, b"a") < 0.5]
    both = sum(sticky_point(b"%d" % i, b"b") < 0.5 for i in low)
    assert 0.4 < both / len(low) < 0.6


@given(st.floats(0, 100), st.floats(0, 100), st.binary(max_size=20))
def test_growth_only_gains_keys(before: float, after: float, key: bytes) -> None:
    """A candidate that grows keeps every key it had."""
    low, high = sorted((before, after))
    point = sticky_point(key, b"route")
    held = [pick(thresholds([100 - weight, weight]), point) == 1 for weight in (low, high)]
    assert held[1] or not held[0]
