"""Bets on rates: fair under the null by exact enumeration, and won against real regressions."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.evidence_bets import (
    STAKES,
    bet_above,
    difference_interval,
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


counts = st.integers(min_value=0, max_value=60)


@given(st.lists(st.tuples(counts, counts, counts, st.floats(0.02, 0.98)), min_size=1, max_size=4))
def test_the_interval_ends_where_the_evidence_does(stages: list[tuple[int, int, int, float]]) -> None:
    """Beyond either end the evidence is conclusive, between them it is not; more certainty never narrows it."""
    seen = [x + y + good for x, y, good, _ in stages]
    counted = [x for x, _, _, _ in stages], [y for _, y, _, _ in stages], seen, [s for _, _, _, s in stages]
    low, high = difference_interval(*counted, alpha=0.05)
    bound, step = np.log(2 / 0.05), 0.003
    grid = np.linspace(-0.98, 0.98, 50)
    excluded = [
        bool(log_difference_above(*counted, difference=d) >= bound)
        or bool(log_difference_below(*counted, difference=d) >= bound)
        for d in grid
    ]
    assert -1 <= low <= high <= 1
    for d, out in zip(grid, excluded, strict=True):
        assert out or low <= d <= high
        assert not out or all(excluded) or not low + step < d < high - step
    wide = difference_interval(*counted, alpha=0.001)
    assert all(excluded) or wide[0] <= low <= high <= wide[1]


def test_the_interval_of_a_rate_without_a_reference_is_not_negative() -> None:
    """Copies without a noise arm: the share that differs, between zero and one; nothing seen excludes nothing."""
    low, high = difference_interval([30.0], [0.0], [100.0], [1.0], alpha=0.01)
    assert 0.1 < low < 0.3 < high < 0.6
    assert difference_interval([0.0], [0.0], [200.0], [1.0], alpha=0.01)[0] == 0.0
    assert difference_interval([0.0], [0.0], [0.0], [0.3], alpha=0.01) == (-1.0, 1.0)


def test_the_interval_covers_the_difference_at_all_times() -> None:
    """Looked at again and again over 600 outcomes, it loses the true difference in at most alpha of the runs."""
    rng, runs, share, rate, reference = np.random.default_rng(8), 200, 0.3, 0.25, 0.1
    lost = 0
    for _ in range(runs):
        mine = rng.random(600) < share
        bad = rng.random(600) < np.where(mine, rate, reference)
        x, y = np.cumsum(bad & mine), np.cumsum(bad & ~mine)
        for n in range(20, 601, 20):
            low, high = difference_interval([x[n - 1]], [y[n - 1]], [n], [share], alpha=0.05)
            if not low <= rate - reference <= high:
                lost += 1
                break
    assert lost <= 0.05 * runs
