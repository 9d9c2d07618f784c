"""Shapes, the send times that follow from them, and how a run is cut into slices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import shapes
from loadtest.arrivals import intended_times
from loadtest.shapes import Shape
from loadtest.slices import Slicing

ALL = {
    "steady": shapes.steady(300, 8),
    "ramp": shapes.ramp(10, 800, 8),
    "step": shapes.step([100, 400, 50], 3),
    "spike": shapes.spike(100, 900, 3, 2, 8),
    "2x-peak": shapes.twice_peak(400, 2, 3),
}
LEVELS = [
    ("steady", [(0, 300), (4, 300), (8, 300)]),
    ("ramp", [(0, 10), (4, 405), (8, 800)]),
    ("step", [(0, 100), (2.9, 100), (3, 400), (6, 50), (9, 50)]),
    ("spike", [(0, 100), (2.9, 100), (3, 900), (4.9, 900), (5, 100), (8, 100)]),
    ("2x-peak", [(0, 0), (2, 400), (4, 400), (7, 800), (9.9, 800), (12, 400), (15, 400)]),
]


@pytest.mark.parametrize(("name", "expected"), LEVELS)
def test_levels_over_time(name: str, expected: list[tuple[float, float]]) -> None:
    """Every shape has the level it is named for at each moment, jumps included."""
    assert [ALL[name].level_at(t) for t, _ in expected] == pytest.approx([level for _, level in expected])


@pytest.mark.parametrize("name", ALL)
def test_cumulative_is_the_integral_of_the_level(name: str) -> None:
    """What is due by a time is the area under the curve."""
    shape = ALL[name]
    t = np.linspace(0, shape.duration_s, 200_001)
    level = np.array([shape.level_at(x) for x in t])
    area = np.concatenate([[0], np.cumsum((level[1:] + level[:-1]) / 2 * np.diff(t))])
    np.testing.assert_allclose(shape.cumulative(t), area, atol=0.05)


@pytest.mark.parametrize("points", [(), ((0, 1),), ((1, 1), (2, 1)), ((0, 1), (3, 1), (2, 1)), ((0, -1), (2, 1))])
def test_impossible_shapes_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    """A shape starts at 0, goes forward in time and is never negative."""
    with pytest.raises(ValueError, match="shape"):
        Shape(points)


@pytest.mark.parametrize("spacing", ["poisson", "even"])
@pytest.mark.parametrize("name", ALL)
def test_send_times_follow_the_shape(name: str, spacing: str) -> None:
    """As many requests as the area says, in order, in every third of the run, however many workers share them."""
    shape = ALL[name]
    for workers in (1, 3):
        times = np.sort(
            np.concatenate(
                [
                    np.fromiter(intended_times(shape, share=1 / workers, spacing=spacing, seed=7 + i), float)
                    for i in range(workers)
                ]
            )
        )
        edges = np.linspace(0, shape.duration_s, 4)
        expected = np.diff(shape.cumulative(edges))
        seen = np.histogram(times, edges)[0]
        # Even spacing is exact to a request per worker and edge; Poisson counts stay within five standard deviations.
        tolerance = 2 * workers if spacing == "even" else 5 * np.sqrt(expected + 1)
        assert (np.abs(seen - expected) <= tolerance).all(), (seen, expected)


def test_poisson_gaps_are_exponential() -> None:
    """Random arrivals really are: the standard deviation of their gaps equals the mean gap."""
    times = np.fromiter(intended_times(shapes.steady(500, 40), share=1, spacing="poisson", seed=1), float)
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)


def test_send_times_depend_on_the_seed_only() -> None:
    """The same seed gives the same schedule, another one another."""
    first, again, other = (
        list(intended_times(ALL["ramp"], share=0.5, spacing="poisson", seed=seed)) for seed in (3, 3, 4)
    )
    assert first == again != other


def test_nothing_is_sent_while_the_level_is_zero() -> None:
    """A pause in a shape is a pause in the schedule."""
    pause = Shape(((0.0, 100.0), (2.0, 100.0), (2.0, 0.0), (4.0, 0.0), (4.0, 100.0), (6.0, 100.0)))
    times = np.fromiter(intended_times(pause, share=1, spacing="even", seed=0), float)
    assert not ((times > 2.01) & (times < 3.99)).any()
    assert len(times) == pytest.approx(400, abs=2)


@given(duration=st.floats(1, 500), width=st.floats(0.5, 5), warmup=st.floats(0, 20))
def test_two_arms_share_the_time_without_overlap(duration: float, width: float, warmup: float) -> None:
    """Every slice after the warm-up belongs to exactly one arm, and the order is A B B A."""
    slicing = Slicing(duration, width, 2)
    first, second = (slicing.measured(arm, warmup) for arm in (0, 1))
    assert not set(first) & set(second)
    assert all(i * width >= warmup for i in first + second)
    assert abs(len(first) - len(second)) <= 2
    assert [slicing.arm_of(i) for i in range(4)] == [0, 1, 1, 0]
