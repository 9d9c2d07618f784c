"""Sizes of drift, their chance, and the binning of answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.drift import bin_answer, ks, ks_chance, look_alpha, psi, psi_chance
from gateway.core.rollout_policy import DriftGate

histograms = st.dictionaries(st.integers(0, 7), st.integers(1, 500), min_size=1)


@given(a=histograms, b=histograms)
def test_sizes_are_symmetric_and_zero_only_for_equal_shapes(a: dict[int, int], b: dict[int, int]) -> None:
    """Neither index depends on which side is called the reference, and equal samples have none."""
    assert psi(a, b, 8) == pytest.approx(psi(b, a, 8), abs=1e-12)
    assert ks(a, b, 8) == pytest.approx(ks(b, a, 8), abs=1e-12)
    assert psi(a, b, 8) >= 0
    assert 0 <= ks(a, b, 8) <= 1
    assert psi(a, a, 8) == pytest.approx(0.0)
    assert ks(a, a, 8) == 0


def test_known_values() -> None:
    """Two bins moved from even to 70 : 30 have PSI 0.2 (ln 7/3) and KS 0.2."""
    a, b = {0: 700_000, 1: 300_000}, {0: 500_000, 1: 500_000}
    assert psi(a, b, 2) == pytest.approx(0.2 * math.log(7 / 3), rel=1e-4)
    assert ks(a, b, 2) == pytest.approx(0.2)


def test_no_data_is_not_a_number_and_no_alarm() -> None:
    """Without a sample there is no size, and its chance is certain."""
    assert math.isnan(psi({}, {0: 1}, 2))
    assert math.isnan(ks({0: 1}, {}, 2))
    assert psi_chance(math.nan, 0, 5, 2) == 1
    assert ks_chance(math.nan, 5, 0) == 1


def test_chances_hold_under_no_drift() -> None:
    """Among 2,000 pairs of samples from one distribution, small chances are as rare as they say."""
    rng = np.random.default_rng(4)
    p = np.full(10, 0.1)
    small_psi = small_ks = 0
    for _ in range(2000):
        a, b = (dict(enumerate(rng.multinomial(n, p).tolist())) for n in (300, 3000))
        small_psi += psi_chance(psi(a, b, 10), 300, 3000, 10) < 0.01
        small_ks += ks_chance(ks(a, b, 10), 300, 3000) < 0.01
    assert small_psi < 2000 * 0.018
    assert small_ks < 2000 * 0.018


def test_all_looks_together_spend_alpha() -> None:
    """The parts of endlessly many looks add up to alpha and no more."""
    assert sum(look_alpha(0.01, j) for j in range(1, 100_000)) == pytest.approx(0.01, rel=1e-4)


def test_an_answer_adds_one_however_many_rows_it_has() -> None:
    """A batch's rows share the weight of one request."""
    gate = DriftGate(output="y", classes=3)
    rows = np.array([[0.1, 0.8, 0.1]] * 3 + [[0.9, 0.0, 0.1]], dtype=np.float32)
    assert bin_answer(rows, gate) == {0: 0.25, 1: 0.75}
    assert bin_answer(rows[0], gate) == {1: 1.0}


def test_labels_and_scores_fall_into_their_bins() -> None:
    """Labels beyond the last class and scores beyond the last edge share the last bin; NaN is never lost."""
    label = DriftGate(output="y", kind="label", classes=4)
    assert bin_answer(np.array([0, 3, 9, -2]), label) == {0: 0.5, 3: 0.5}
    assert bin_answer(np.array([np.nan, np.inf]), label) == {3: 1.0}
    score = DriftGate(output="y", kind="score", edges=(0.25, 0.5))
    assert bin_answer(np.array([0.1, 0.25, 0.5, np.nan]), score) == {0: 0.25, 1: 0.25, 2: 0.5}
    assert score.bins == 3


@pytest.mark.parametrize("values", [np.array([]), np.array([b"a"], dtype=object)])
def test_what_cannot_be_binned_is_refused(values: np.ndarray) -> None:
    """Empty and non-numeric outputs are an error that names the output."""
    with pytest.raises(ValueError, match="output 'y' holds no numbers"):
        bin_answer(values, DriftGate(output="y"))
