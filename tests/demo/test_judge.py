"""The demo's decisions."""

import math
from typing import Any

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


@pytest.mark.parametrize(
    ("found", "ok", "text"),
    [
        (9, True, "9 (at most 50)"),
        (50, True, "50 (at most 50)"),
        (0.0214, True, "0.0214 (at most 50)"),
        (51, False, "51 (at most 50)"),
        (0, False, "0 (at most 50)"),
        (None, False, "never, expected at most 50"),
    ],
)
def test_a_bound_holds_only_for_what_has_happened(found: float | None, ok: bool, text: str) -> None:
    """Up to the bound it holds; above it, and where nothing was seen, it does not."""
    assert judge.at_most("x", found, 50) == judge.Check("x", ok, text)


def _decision(seq: int, at: float, event: str, reason: str) -> dict[str, Any]:
    return {"seq": seq, "at": at, "event": event, "reason": reason}


def test_the_switch_is_the_acknowledgement_that_follows_the_verdict() -> None:
    """Weights that were acknowledged on the way up do not count, nor do other acknowledgements after the verdict."""
    up = _decision(1, 10.0, "acknowledged", "weights weights done: generation 3")
    failed = _decision(2, 20.0, "failed", "errors")
    told = _decision(3, 20.1, "acknowledged", "event abort done")
    down = _decision(4, 20.25, "done", "event abort done, weights weights done: generation 4")
    assert judge.switch_s([up, failed, told, down]) == pytest.approx(0.25)
    assert judge.switch_s([up, failed, told]) is None
    assert judge.switch_s([up, told]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_is_a_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    """It is one of the values, enough values are at or below it, and no smaller one has that property."""
    found = judge.quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    below = [value for value in values if value < found]
    assert len(below) < share * len(values)
