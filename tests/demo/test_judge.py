"""The demo's decisions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo import judge


def test_bounds_hold_what_a_fair_split_gives() -> None:
    """The mean and anything near it is inside; five standard deviations off is outside."""
    low, high = judge.bounds(4000, 0.9)
    spread = math.sqrt(4000 * 0.9 * 0.1)
    assert low < 3600 - 3 * spread < 3600 + 3 * spread < high
    assert 3600 - 5 * spread < low
    assert high < 3600 + 5 * spread


@pytest.mark.parametrize(("count", "ok"), [(3600, True), (3700, False), (3500, False), (4000, False), (0, False)])
def test_a_share_is_judged_by_its_bounds(count: int, ok: bool) -> None:
    """Counts inside pass and counts outside fail, with both bounds in the text."""
    check = judge.within("share", count, 4000, 0.9)
    assert check.ok is ok
    assert check.text == f"{count} of 4000, expected {judge.bounds(4000, 0.9)[0]} to {judge.bounds(4000, 0.9)[1]}"


def test_equality_shows_both_sides_only_when_they_differ() -> None:
    """A claim that holds is short; one that does not shows what was expected."""
    assert judge.equal("x", 1, 1) == judge.Check("x", True, "1")
    assert judge.equal("x", 1, 2) == judge.Check("x", False, "1, expected 2")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_is_a_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    """It is one of the values, enough values are at or below it, and no smaller one has that property."""
    found = judge.quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    below = [value for value in values if value < found]
    assert len(below) < share * len(values)
