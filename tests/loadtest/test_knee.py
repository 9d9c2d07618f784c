"""The search for the knee, on servers whose capacity is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.knee import Knee, Probe, Range, lowest_judgeable, next_step, search, without_rate
from loadtest.objectives import DEFAULT_OBJECTIVES, Judgement, Objective, Verdict, judge
from loadtest.summary import Cell, group

LIMITS = Range(100, 20_000, 0.05)


def answer(rate: float, verdict: Verdict) -> Probe:
    """A probe with nothing in it but its verdict."""
    return Probe(rate, rate, 1.0, 2.0, 0.0, 0.1, verdict, [])


@given(capacity=st.floats(110, 19_000))
def test_the_knee_is_found_to_the_precision_asked_for(capacity: float) -> None:
    """For any capacity within the range the answer holds, is at most 5 % too low, and takes few probes."""
    knee, probes = search(lambda rate: answer(rate, "pass" if rate <= capacity else "fail"), LIMITS, lambda _: None)
    assert knee.why == "found"
    assert knee.rate_per_s is not None
    assert knee.rate_per_s <= capacity <= knee.rate_per_s * 1.0501
    assert len(probes) <= 22


def test_one_unlucky_failure_does_not_count() -> None:
    """A rate that fails once and holds when tried again was held back by bad luck."""
    lucky = {1: False}

    def probe(rate: float) -> Probe:
        if rate == 400 and not lucky[1]:
            lucky[1] = True
            return answer(rate, "fail")
        return answer(rate, "pass" if rate <= 1000 else "fail")

    knee, _ = search(probe, LIMITS, lambda _: None)
    assert knee.rate_per_s == pytest.approx(1000, rel=0.06)


def test_the_ends_of_the_range_are_named() -> None:
    """All rates hold: the knee is above. None does: there is no knee. A probe without a verdict ends the search."""
    assert search(lambda r: answer(r, "pass"), LIMITS, lambda _: None)[0] == Knee(20_000, "above the range")
    assert search(lambda r: answer(r, "fail"), LIMITS, lambda _: None)[0] == Knee(None, "below the range")
    assert next_step([answer(100, "pass"), answer(200, "inconclusive")], LIMITS) == Knee(100, "undecided")


def test_rates_too_low_to_judge_are_refused_beforehand() -> None:
    """With errors below 0.1 %, ten seconds need some 360 requests/s before zero errors mean anything."""
    assert lowest_judgeable(DEFAULT_OBJECTIVES, 10) == pytest.approx(360)
    assert lowest_judgeable([], 10) == 0


@given(
    metric=st.sampled_from(["latency_p50_ms", "latency_mean_ms", "latency_p90_ms", "latency_p99_ms", "error_rate"]),
    below=st.sampled_from([0.001, 0.01, 0.3]),
)
def test_what_is_not_refused_can_be_judged(metric: str, below: float) -> None:
    """At the lowest rate an even run has enough to tell, one with a third of that has not."""
    objective = Objective(metric=metric, below=below)  # type: ignore[arg-type]
    answers = round(10 * lowest_judgeable([objective], 10))

    def verdict(count: int) -> Verdict:
        cell = Cell(0, "host", "r", "", latency={0: count})
        return judge(objective, group([cell], where="", measured_s=10), instances=1, offered_per_s=None).verdict

    assert verdict(answers) == "pass"
    assert verdict(answers // 3) == "inconclusive"


def test_the_rate_objective_is_left_out() -> None:
    """The knee asks at which rate the others hold, so the rate itself is no objective here."""
    verdict, reasons = without_rate(
        [
            Judgement("latency_p99_ms < 100", 12.0, "pass", ""),
            Judgement("rate_per_s > 1000", 300.0, "inconclusive", "only 300/s per instance were offered"),
        ]
    )
    assert (verdict, reasons) == ("pass", [])
    verdict, reasons = without_rate([Judgement("latency_p99_ms < 100", 212.0, "fail", "")])
    assert (verdict, reasons) == ("fail", ["latency_p99_ms < 100: 212"])
