"""Verdicts: what passes, what fails, and what is honestly unknown."""

import pytest

from loadtest.histogram import bucket_of
from loadtest.objectives import DEFAULT_OBJECTIVES, EXIT_CODES, ORDER, Objective, judge, worst
from loadtest.summary import Cell, Group, group


def made(good: int = 10_000, bad: int = 0, ms: float = 5.0, seconds: float = 5.0) -> Group:
    """A group of equal latencies."""
    us = bucket_of(int(ms * 1000))
    cell = Cell(0, "host", "r", "", latency={us: good} if good else {}, errors={"http_503": bad} if bad else {})
    found = group([cell], where="", measured_s=seconds)
    assert found is not None
    return found


P50 = Objective(metric="latency_p50_ms", below=20)
P99 = Objective(metric="latency_p99_ms", below=100)
RATE = Objective(metric="rate_per_s", above=1000)
ERRORS = Objective(metric="error_rate", below=0.001)


@pytest.mark.parametrize(
    ("objective", "seen", "verdict"),
    [
        (P50, made(), "pass"),
        (P50, made(ms=21), "fail"),
        (P50, made(good=9), "inconclusive"),
        (P50, made(good=10), "pass"),
        (P50, made(good=0, bad=5), "no_data"),
        (P99, made(good=999), "inconclusive"),
        (P99, made(good=1000), "pass"),
        (P99, made(ms=101), "fail"),
        (RATE, made(), "pass"),
        (RATE, made(good=4999), "fail"),
        (ERRORS, made(), "pass"),
        (ERRORS, made(good=9990, bad=10), "fail"),
        (ERRORS, made(good=9991, bad=9), "pass"),
        (ERRORS, made(good=2000), "inconclusive"),
        (ERRORS, made(good=900, bad=1), "fail"),
        (P50, None, "no_data"),
    ],
)
def test_verdicts(objective: Objective, seen: Group | None, verdict: str) -> None:
    """Bounds are strict, and too few observations never pass."""
    assert judge(objective, seen, instances=1, offered_per_s=None).verdict == verdict


def test_rates_are_judged_per_instance() -> None:
    """Two gateways must answer twice the rate together."""
    assert judge(RATE, made(good=9_000), instances=1, offered_per_s=None).verdict == "pass"
    assert judge(RATE, made(good=9_000), instances=2, offered_per_s=None).verdict == "fail"


def test_a_rate_that_was_never_offered_is_unknown() -> None:
    """An open run that asked for less than the objective cannot tell; one that asked for more can."""
    assert judge(RATE, made(good=2000), instances=1, offered_per_s=400).verdict == "inconclusive"
    assert judge(RATE, made(good=2000), instances=1, offered_per_s=1200).verdict == "fail"


def test_the_worst_verdict_wins() -> None:
    """The whole is as good as its worst part; nothing at all is no data; every verdict has an exit code."""
    assert worst(["pass", "inconclusive", "pass"]) == "inconclusive"
    assert worst(["inconclusive", "fail", "no_data"]) == "fail"
    assert worst(["fail", "error"]) == "error"
    assert worst([]) == "no_data"
    assert {EXIT_CODES[v] for v in ORDER} == {0, 8, 9, 1}


def test_the_briefs_objectives_are_the_defaults() -> None:
    """p50 < 20 ms, p99 < 100 ms, more than 1,000 requests/s, errors below 0.1 %."""
    assert (P50, P99, RATE, ERRORS) == DEFAULT_OBJECTIVES


def test_error_rates_count_failures_of_all_requests() -> None:
    """Failures count in the error rate and not in the latencies."""
    seen = made(good=90, bad=10, seconds=2)
    assert (seen.requests, seen.errors, seen.error_rate) == (100, 10, 0.1)
    assert seen.rate_per_s == 45
    assert seen.error_kinds == {"http_503": 10}
