"""Comparisons: right about ratios, honest about uncertainty."""

import numpy as np
import pytest

from loadtest.compare import MIN_SLICES, Comparison, Line, Side, compare
from loadtest.histogram import bucket_of, merge
from loadtest.summary import Cell


def side(name: str, latencies: list[np.ndarray], errors: int = 0, first: int = 0, stride: int = 1) -> Side:
    """A side with one cell per slice; latencies in milliseconds."""
    cells, slices = [], []
    for i, values in enumerate(latencies):
        index = first + i * stride
        slices.append(index)
        buckets = merge({bucket_of(int(v * 1000)): 1} for v in values)
        cells.append(Cell(index, name, "r", "", latency=buckets, errors={"timeout": errors} if errors else {}))
    return Side(name, cells, slices, 1.0)


def drawn(rng: np.random.Generator, slices: int, scale: float, jitter: float = 0.0) -> list[np.ndarray]:
    """Slices of 200 latencies; `jitter` moves whole slices, as a busy neighbour would."""
    return [scale * np.exp(jitter * rng.normal()) * rng.lognormal(0, 0.3, 200) for _ in range(slices)]


def line(comparison: Comparison, metric: str) -> Line:
    """One metric's line."""
    return next(found for found in comparison.lines if found.metric == metric)


def test_a_real_difference_is_found_with_its_size() -> None:
    """Twice the latency is reported as a ratio near 2 whose interval excludes 1."""
    rng = np.random.default_rng(1)
    found = line(compare(side("a", drawn(rng, 30, 10)), side("b", drawn(rng, 30, 5)), paired=False), "latency_p50_ms")
    assert found.ratio == pytest.approx(2, rel=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2 < found.high
    assert found.finding == "higher"


def test_intervals_cover_no_difference_as_often_as_they_say() -> None:
    """Two runs of the same server, whose slices jitter as a whole, differ 'significantly' in about 5 % of cases."""
    rng = np.random.default_rng(2)
    wrong = sum(
        line(
            compare(side("a", drawn(rng, 30, 5, 0.2)), side("b", drawn(rng, 30, 5, 0.2)), paired=False, seed=i),
            "latency_p50_ms",
        ).finding
        != "no difference shown"
        for i in range(40)
    )
    # 40 trials at 5 % to 8 % (30 slices are few for a bootstrap): more than 8 would have a chance below 1 %.
    assert wrong <= 8


def test_pairs_take_a_common_drift_out() -> None:
    """When both arms suffer the same slow drift, pairing shows a 10 % difference that unpaired slices hide."""
    rng = np.random.default_rng(3)
    drift = np.exp(np.linspace(0, 1.5, 40))
    a = side("a", [5.5 * d * rng.lognormal(0, 0.3, 200) for d in drift], stride=2)
    b = side("b", [5.0 * d * rng.lognormal(0, 0.3, 200) for d in drift], first=1, stride=2)
    assert line(compare(a, b, paired=True), "latency_mean_ms").finding == "higher"
    assert line(compare(a, b, paired=False), "latency_mean_ms").finding == "no difference shown"


def test_too_few_slices_say_unknown() -> None:
    """Below the minimum there is a ratio but no interval and no finding."""
    rng = np.random.default_rng(4)
    few = MIN_SLICES - 1
    compared = compare(side("a", drawn(rng, few, 5)), side("b", drawn(rng, few, 5)), paired=False)
    for found in compared.lines:
        assert (found.low, found.high, found.finding) == (None, None, "unknown")
    assert line(compared, "latency_p50_ms").ratio is not None


def test_error_rates_are_compared_by_difference() -> None:
    """A rate of zero on one side still gives a finite, signed answer."""
    rng = np.random.default_rng(5)
    broken, sound = side("a", drawn(rng, 20, 5), errors=10), side("b", drawn(rng, 20, 5))
    found = line(compare(broken, sound, paired=False), "error_rate")
    assert found.ratio == pytest.approx(10 / 210)
    assert found.finding == "higher"


def test_slices_without_an_answer_count() -> None:
    """A second in which a server answered nothing lowers its rate; it is not left out."""
    rng = np.random.default_rng(6)
    alive = drawn(rng, 20, 5)
    half_dead = [values if i % 2 else values[:0] for i, values in enumerate(alive)]
    found = line(compare(side("a", half_dead), side("b", alive), paired=True), "rate_per_s")
    assert found.ratio == pytest.approx(0.5)


def test_nothing_on_a_side_is_unknown() -> None:
    """A side without a single answer has no latency, no ratio and no finding."""
    rng = np.random.default_rng(7)
    empty = [np.array([])] * 20
    found = line(compare(side("a", empty), side("b", drawn(rng, 20, 5)), paired=False), "latency_p99_ms")
    assert (found.a, found.ratio, found.finding) == (None, None, "unknown")
