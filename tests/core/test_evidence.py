"""The sequential tests: never more than a fair game under the null, and moved the right way by every outcome."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.evidence import log_fine, log_share_mismatch, log_worse, ratio, ratio_interval
from gateway.core.evidence_dispersion import Dispersion

SHARES = (0.01, 0.2, 0.5, 0.9)
counts = st.integers(min_value=0, max_value=200)
shares = st.floats(min_value=0.001, max_value=0.999)


def binomial(x: int, n: int, p: float) -> float:
    return comb(n, x) * p**x * (1 - p) ** (n - x)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("tolerance", [1.0, 1.25])
def test_evidence_of_worse_is_fair_under_no_worse(share: float, tolerance: float) -> None:
    """Summed exactly over all outcomes, its expectation is 1 at the boundary and less when the candidate is better."""
    for n in range(9):
        for true, exact in ((tolerance, True), (tolerance / 2, False)):
            p = true * share / (true * share + 1 - share)
            mean = sum(
                binomial(x, n, p) * np.exp(log_worse([x], [n], [share], tolerance=tolerance)) for x in range(n + 1)
            )
            assert mean == pytest.approx(1.0) if exact else mean <= 1 + 1e-12


@pytest.mark.parametrize("share", SHARES)
def test_evidence_of_fine_is_fair_under_the_margin(share: float) -> None:
    """Its expectation is 1 when the candidate is worse by exactly the margin, and less when it is worse still."""
    margin = 2.0
    for n in range(9):
        for true in (margin, 3 * margin):
            p = true * share / (true * share + 1 - share)
            mean = sum(binomial(x, n, p) * np.exp(log_fine([x], [n], [share], margin=margin)) for x in range(n + 1))
            assert mean == pytest.approx(1.0) if true == margin else mean <= 1 + 1e-12


def test_product_over_stages_stays_fair() -> None:
    """Two stages with shares of their own multiply into one fair game."""
    stages, sizes = (0.05, 0.4), (3, 4)
    mean = 0.0
    for x in product(*(range(n + 1) for n in sizes)):
        chance = np.prod([binomial(a, n, s) for a, n, s in zip(x, sizes, stages, strict=True)])
        mean += chance * np.exp(log_worse(x, sizes, stages))
    assert mean == pytest.approx(1.0)


@pytest.mark.parametrize("share", SHARES)
def test_learnt_weights_keep_the_game_fair(share: float) -> None:
    """With weights learnt from the seconds before, the expectation over every possible history stays at most 1."""
    sizes = (2, 3, 1, 3)

    def mean(at: int, dispersion: Dispersion, x: float, n: float) -> float:
        if at == len(sizes):
            return float(np.exp(log_worse([x], [n], [share])))
        size = sizes[at]
        weight = float(dispersion.weight(float(size)))
        return sum(
            binomial(a, size, share)
            * mean(at + 1, dispersion.after(float(a), float(size), share), x + weight * a, n + weight * size)
            for a in range(size + 1)
        )

    assert mean(0, Dispersion(), 0.0, 0.0) <= 1 + 1e-12


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_whole_seconds_counted_once_are_fair_however_they_depend(share: float) -> None:
    """When all bad outcomes of a second fall on one arm together, a first second's weight keeps the game fair."""
    for n in (2, 5, 20):
        weight = float(Dispersion().weight(float(n)))
        mean = sum(
            chance * np.exp(log_worse([weight * x], [weight * n], [share]))
            for x, chance in ((n, share), (0, 1 - share))
        )
        assert mean <= 1 + 1e-12


@given(x=counts, other=counts, share=shares)
def test_a_bad_outcome_on_the_candidate_only_adds_evidence(x: int, other: int, share: float) -> None:
    """One more on the candidate raises evidence of worse and lowers that of fine; one on the reference the reverse."""
    before, mine, theirs = ([x], [x + other]), ([x + 1], [x + other + 1]), ([x], [x + other + 1])
    assert log_worse(*mine, [share]) > log_worse(*before, [share]) > log_worse(*theirs, [share])
    assert log_fine(*mine, [share], margin=2) < log_fine(*before, [share], margin=2)
    assert log_fine(*theirs, [share], margin=2) > log_fine(*before, [share], margin=2)


@given(st.lists(st.tuples(counts, counts, shares), min_size=1, max_size=6), st.randoms())
def test_order_of_stages_does_not_matter(stages: list[tuple[int, int, float]], random: object) -> None:
    """Evidence is a function of the counts per share, not of the order in which they came."""
    shuffled = list(stages)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for found in (log_worse, log_share_mismatch):
        a, b = (found([x for x, _, _ in o], [x + y for x, y, _ in o], [s for _, _, s in o]) for o in (stages, shuffled))
        assert a == pytest.approx(b, rel=1e-9, abs=1e-9)


@given(x=counts, other=counts, share=shares)
def test_interval_holds_the_estimate(x: int, other: int, share: float) -> None:
    """The interval at all times surrounds the most likely ratio, and asking for more certainty never shrinks it."""
    low, high = ratio_interval([x], [x + other], [share], alpha=0.05)
    wide_low, wide_high = ratio_interval([x], [x + other], [share], alpha=0.001)
    estimate = ratio([x], [x + other], [share])
    assert estimate is None or low <= estimate <= (high or np.inf)
    assert wide_low <= low
    assert wide_high is None or (high is not None and wide_high >= high)


def test_interval_excludes_one_before_the_test_is_certain() -> None:
    """A clear regression's interval lies above one; without data everything is possible."""
    low, _ = ratio_interval([60], [100], [0.1], alpha=0.01)
    assert low > 3
    assert ratio_interval([0], [0], [0.1], alpha=0.01) == (0.0, None)
    assert ratio([0], [0], [0.1]) is None


def test_interval_covers_at_all_times() -> None:
    """Watched after each of 400 outcomes, the interval loses the true ratio in at most alpha of the runs."""
    rng = np.random.default_rng(5)
    runs, alpha, share, true = 300, 0.05, 0.2, 2.0
    p = true * share / (true * share + 1 - share)
    path = np.cumsum(rng.random((runs, 400)) < p, axis=1)
    lost = 0
    for run in path:
        for n in range(1, 401, 7):
            low, high = ratio_interval([run[n - 1]], [n], [share], alpha=alpha)
            if low > true or (high is not None and high < true):
                lost += 1
                break
    assert lost <= 0.05 * runs


@pytest.mark.parametrize("share", SHARES)
def test_share_check_is_fair_and_notices(share: float) -> None:
    """Its expectation under the set share is 1; half the set share among 4,000 requests is beyond doubt."""
    mean = sum(binomial(x, 12, share) * np.exp(log_share_mismatch([x], [12], [share])) for x in range(13))
    assert mean == pytest.approx(1.0)
    n = 4000
    assert log_share_mismatch([round(n * share)], [n], [share]) < 0
    assert log_share_mismatch([round(n * share / 2)], [n], [share]) > np.log(1000) or share == 0.01


def test_many_rollouts_at_once_equal_one_by_one() -> None:
    """The axes before the stages are rollouts: each row's evidence is what it would be alone."""
    x, n = np.array([[1.0, 4.0], [0.0, 9.0]]), np.array([[3.0, 9.0], [5.0, 10.0]])
    together = log_worse(x, n, [0.1, 0.5])
    assert list(together) == pytest.approx([float(log_worse(a, b, [0.1, 0.5])) for a, b in zip(x, n, strict=True)])


def test_correlation_is_learnt_from_mixed_pairs() -> None:
    """Outcomes that fall independently end near no correlation; seconds that fail on one side stay at full."""
    rng = np.random.default_rng(2)
    free = joint = Dispersion()
    for _ in range(400):
        n = float(rng.integers(4, 12))
        free = free.after(float(rng.binomial(int(n), 0.3)), n, 0.3)
        joint = joint.after(n if rng.random() < 0.3 else 0.0, n, 0.3)
    assert free.rho() < 0.25
    assert joint.rho() == 1.0
    assert joint.weight(8.0) == pytest.approx(1 / 8, rel=0.3)
    assert Dispersion().weight(1.0) == 1.0
