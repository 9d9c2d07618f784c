"""Bets on rates: fair under the null by exact enumeration, and won against real regressions."""

from itertools import product
from math import comb

import numpy as np
import pytest

from gateway.core.evidence_bets import (
    STAKES,
    bet_above,
    log_difference_above,
    log_difference_below,
    log_rate_below,
    log_wealth,
)


@pytest.mark.parametrize("objective", [0.001, 0.1, 0.5])
def test_bet_on_an_objective_is_fair(objective: float) -> None:
    """Over all outcomes of two seconds at exactly the objective's rate, mean wealth is 1, for every stake."""
    mean = np.zeros(len(STAKES))
    for outcome in product((0, 1), repeat=4):
        chance = np.prod([objective if bad else 1 - objective for bad in outcome])
        first, second = bet_above(objective, sum(outcome[:2]), 2), bet_above(objective, sum(outcome[2:]), 2)
        mean += chance * np.exp(first + second)
    assert mean == pytest.approx(np.ones(len(STAKES)))


def test_bet_stays_fair_when_a_second_fails_as_one() -> None:
    """All of a second's requests failing together, at the objective's rate on average, gains nothing on average."""
    bad, good = np.exp(bet_above(0.01, 50, 50)), np.exp(bet_above(0.01, 0, 50))
    assert 0.01 * bad + 0.99 * good == pytest.approx(np.ones(len(STAKES)))


def test_a_second_without_requests_changes_no_wealth() -> None:
    """Nothing seen is nothing learnt."""
    assert bet_above(0.001, 0, 0) == pytest.approx(np.zeros(len(STAKES)))


def test_total_failure_is_beyond_doubt_within_two_seconds() -> None:
    """Five failed requests a second against 0.1 % reach evidence of 1,000 in the second second."""
    assert log_wealth(2 * bet_above(0.001, 5, 5)) > np.log(1000)


@pytest.mark.parametrize("objective", [0.01, 0.2])
def test_evidence_of_a_low_rate_is_fair(objective: float) -> None:
    """Its mean is 1 at the objective and below 1 beyond it."""
    for true in (objective, 2 * objective):
        mean = sum(
            comb(10, x) * true**x * (1 - true) ** (10 - x) * np.exp(log_rate_below(objective, x, 10)) for x in range(11)
        )
        assert mean == pytest.approx(1.0) if true == objective else mean < 1


def test_clean_requests_show_a_low_rate() -> None:
    """Some thousand requests without an error show less than 0.5 %, and a few errors take that back."""
    assert log_rate_below(0.005, 0, 1200) > np.log(20)
    assert log_rate_below(0.005, 8, 1200) < 0


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("difference", [0.0, 0.05])
def test_difference_bets_are_fair(share: float, difference: float) -> None:
    """Over all outcomes of four observations whose rates differ by exactly the tolerance, both bets have mean 1."""
    reference = 0.1 if share < 1 else 0.0
    rate = reference + difference
    cells = {"x": share * rate, "y": (1 - share) * reference, "good": 1 - share * rate - (1 - share) * reference}
    above = below = 0.0
    for outcome in product(cells, repeat=4):
        chance = np.prod([cells[cell] for cell in outcome])
        if not chance:
            continue
        counted = ([outcome.count("x")], [outcome.count("y")], [4], [share])
        above += chance * np.exp(log_difference_above(*counted, difference=difference))
        below += chance * np.exp(log_difference_below(*counted, difference=difference))
    assert above == pytest.approx(1.0)
    assert below == pytest.approx(1.0)


def test_difference_bets_find_drops_and_equality() -> None:
    """Forty against three per cent wrong is a drop; three against three is none."""
    drop, same = ([20.0], [30.0], [1050.0], [0.05]), ([1.5], [30.0], [1050.0], [0.05])
    assert log_difference_above(*drop, difference=0.05) > np.log(100)
    assert log_difference_above(*same, difference=0.05) < 0
    assert log_difference_below([15], [15], [1000], [0.5], difference=0.05) > np.log(100)
