"""Results: what is measured out of cells, stored, read back, reported."""

import re
import time
from pathlib import Path

import msgspec
import pytest

from loadtest import probing, results
from loadtest.batch_watch import BatchWatch, period_s
from loadtest.driver.messages import Outcome
from loadtest.errors import FileError, UsageError
from loadtest.execute import Options, assemble
from loadtest.histogram import bucket_of
from loadtest.plan import Arm, make_plan
from loadtest.report import html
from loadtest.results import BatchMoment, BatchSizes, Result
from loadtest.scenario import Scenario, changed, resized
from loadtest.scenario_file import load_scenario
from loadtest.summary import Cell
from loadtest.triton_stats import ModelStats, Snapshot, difference, series

HOSTILE = "<script>alert(1)</script>"


def cells(arms: list[str], seconds: int, ms: float = 4.0, variant: str = "v1") -> list[Cell]:
    """A hundred equal answers in each second; seconds alternate between two arms as A B B A."""
    order = [0, 1, 1, 0] if len(arms) == 2 else [0]
    bucket = bucket_of(int(ms * 1000))
    return [
        Cell(
            i, arms[order[i % len(order)]], "digit", variant, {bucket: 100}, {bucket: 100}, {bucket_of(50): 9}, {}, 100
        )
        for i in range(seconds)
    ]


def made(scenario: Scenario, arms: list[str], outcome: list[Cell], **more: object) -> Result:
    """A result out of cells."""
    plan = make_plan(scenario, [Arm(a, f"http://{a}") for a in arms], arm_slice_s=1.0)
    seen = Outcome(started_at=0.0, cells=outcome, cpu_shares=[0.3], missing=0)
    seen = msgspec.structs.replace(seen, **more)
    moments = [BatchMoment(0, 1, {"digits:1": {1: 30}}, {}), BatchMoment(1, 2, {"digits:1": {1: 10, 8: 3}}, {})]
    batches = BatchSizes({"digits:1": {1: 40, 8: 3}}, {"digits:1": 64}, {"digits:1": 0.2}, {"digits:1": 1.1}, moments)
    return assemble(scenario, Options(arms=plan.arms), plan, seen, batches=batches, notes=[])


@pytest.fixture
def scenario() -> Scenario:
    """Twenty seconds of digits, the first two for warm-up."""
    return resized(load_scenario("digits-json"), peak=4, duration_s=20)


def test_warm_up_is_not_counted(scenario: Scenario) -> None:
    """Slices before the warm-up's end are stored but in no figure."""
    slow = cells(["host"], 2, ms=900)
    fast = cells(["host"], 20)[2:]
    result = made(scenario, ["host"], slow + fast)
    assert len(result.cells) == 20
    assert result.groups[0].requests == 1800
    assert result.groups[0].measured_s == 18
    assert result.groups[0].rate_per_s == 100
    assert result.groups[0].latency.max_ms == pytest.approx(4, rel=0.01)


def test_a_warm_up_within_a_slice_takes_all_of_it(scenario: Scenario) -> None:
    """Only whole slices count: a warm-up of 2.5 s leaves the slices from 3 s on."""
    result = made(changed(scenario, warmup_s=2.5), ["host"], cells(["host"], 20))
    assert (result.groups[0].measured_s, result.warmup_s) == (17, 3)


def test_arms_that_cannot_have_a_turn_are_refused_beforehand(scenario: Scenario) -> None:
    """In 6 s of which 2 do not count, turns of 2 s (A B B) leave nothing of A; those of 1 s do."""
    arms = [Arm(name, f"http://{name}") for name in "ab"]
    short = resized(scenario, duration_s=6)
    with pytest.raises(UsageError, match=r"6 s are too short: each arm needs a slice of 2 s after 2 s of warm-up"):
        make_plan(short, arms, arm_slice_s=2.0)
    assert make_plan(short, arms, arm_slice_s=1.0).slicing.measured(0, 2.0)


def test_arms_have_rates_of_their_own_time(scenario: Scenario) -> None:
    """With two arms a rate is answers over the seconds in which that arm was driven."""
    result = made(scenario, ["a", "b"], cells(["a", "b"], 20))
    rates = {g.where: (g.rate_per_s, g.measured_s) for g in result.groups}
    assert rates["arm=a"] == (100, 9)
    assert rates["arm=b"] == (100, 9)


def test_open_runs_know_what_they_offered(scenario: Scenario) -> None:
    """The offered rate is that of the measured time, for each arm, and unknown for closed users."""
    opened = changed(scenario, arrivals="open")
    ramp = changed(opened, shape={"kind": "ramp", "start": 0, "end": 100, "duration_s": 20})
    assert made(ramp, ["host"], cells(["host"], 20)).offered_per_s == {"host": pytest.approx(55)}
    assert made(scenario, ["host"], cells(["host"], 20)).offered_per_s is None


def test_objectives_are_about_the_first_arm_unless_they_say(scenario: Scenario) -> None:
    """Without an arm in `where`, the server under test is judged, not the one it is compared with."""
    chosen = changed(
        scenario,
        objectives=[
            {"metric": "latency_p50_ms", "below": 10},
            {"metric": "latency_p50_ms", "below": 10, "where": "arm=b"},
            {"metric": "latency_p50_ms", "below": 10, "where": "variant=nothing"},
        ],
    )
    a = [c for c in cells(["a", "b"], 20) if c.arm == "a"]
    b = [c for c in cells(["a", "b"], 20, ms=50) if c.arm == "b"]
    result = made(chosen, ["a", "b"], a + b)
    assert [j.verdict for j in result.objectives] == ["pass", "fail", "no_data"]
    assert result.verdict == "fail"


def test_missing_reports_and_a_busy_generator_are_said(scenario: Scenario) -> None:
    """A lost worker makes the verdict error; a generator without CPU to spare is noted."""
    result = made(scenario, ["host"], cells(["host"], 20), missing=1, cpu_shares=[0.97])
    assert result.verdict == "error"
    assert len(result.notes) == 2


@pytest.mark.parametrize(("share", "ms", "said"), [(0.97, 900, 1), (0.3, 900, 0), (0.97, 4, 0)])
def test_a_limit_that_may_be_the_generators_own_is_said(scenario: Scenario, share: float, ms: float, said: int) -> None:
    """A probe that failed while a load generator had no CPU to spare says so; one that held proves itself."""
    asked = changed(scenario, objectives=[{"metric": "latency_p99_ms", "below": 100}])
    result = made(asked, ["host"], cells(["host"], 20, ms=ms), cpu_shares=[0.1, share])
    seen = probing.probe(result, 100)
    assert (seen.verdict, seen.requests, seen.generator_cpu) == ("fail" if ms > 100 else "pass", 1800, share)
    assert sum("may be its own" in reason for reason in seen.reasons) == said
    assert ("may be its own" in probing.line(seen)) == bool(said)


def test_results_survive_storing(scenario: Scenario, tmp_path: Path) -> None:
    """What is read back is what was stored; anything else is refused with the file's name."""
    result = made(scenario, ["a", "b"], cells(["a", "b"], 20))
    path = tmp_path / "deep" / "result.json"
    results.write(path, result)
    assert results.read(path) == result
    path.write_text('{"format": "other"}')
    with pytest.raises(FileError, match=r"result\.json: not a load test result"):
        results.read(path)


def test_parts_of_a_result_can_be_selected(scenario: Scenario) -> None:
    """A selector names an arm or variant; one that matches nothing is an error that says what there is."""
    result = made(scenario, ["a", "b"], cells(["a", "b"], 20))
    side = results.side(result, "arm=b,variant=v1", "b")
    assert {c.arm for c in side.cells} == {"b"}
    assert side.slices == [i for i in range(2, 20) if i % 4 in {1, 2}]
    with pytest.raises(UsageError, match="the run has the arms a, b"):
        results.side(result, "arm=c", "c")
    with pytest.raises(UsageError, match="nothing in the run matches"):
        results.side(result, "variant=v9", "v9")


def test_the_report_is_one_harmless_file(scenario: Scenario) -> None:
    """The HTML loads nothing, runs nothing, escapes what servers sent, and shows every picture."""
    bad = [msgspec.structs.replace(c, errors={HOSTILE: 3}) for c in cells(["a", "b"], 20, variant=HOSTILE)]
    page = html.render(made(scenario, ["a", "b"], bad))
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)", page)
    for title in (
        "Rate over time",
        "Latency over time",
        "Latency histogram",
        "Latency by percentile",
        "Errors",
        "Batches",
        "Batch sizes over time",
    ):
        assert f"<h2>{title}" in page
    assert page.count("<svg") == 7
    assert "a against b" in page


def test_an_empty_run_can_be_reported(scenario: Scenario) -> None:
    """A run without a single answer still gives a report that says so."""
    nothing = [Cell(i, "host", "digit", "", errors={"timeout": 5}) for i in range(20)]
    result = made(scenario, ["host"], nothing)
    assert result.groups[0].latency.p50_ms is None
    assert "timeout: 90" in html.render(result)


def stats(success: int, batches: dict[int, int], queue_ns: int = 0) -> ModelStats:
    """Statistics of digits version 1."""
    text = {
        "name": "digits",
        "version": "1",
        "inference_stats": {"success": {"count": success, "ns": 1}, "queue": {"count": success, "ns": queue_ns}},
        "batch_stats": [{"batch_size": s, "compute_infer": {"count": n, "ns": 1}} for s, n in batches.items()],
    }
    return msgspec.convert(text, ModelStats)


def test_statistics_are_differences() -> None:
    """Only what happened in between counts, also for sizes that were new."""
    before = {"digits:1": stats(100, {1: 60, 4: 10}, 1_000_000)}
    after = {"digits:1": stats(140, {1: 80, 4: 10, 5: 4}, 81_000_000)}
    seen = difference(before, after)
    assert seen.requests == {"digits:1": 40}
    assert seen.executions == {"digits:1": {1: 20, 5: 4}}
    assert seen.queue_ms == {"digits:1": 2.0}


def test_a_model_loaded_anew_counts_from_zero() -> None:
    """Counters that went back mean that the model was loaded again, or is new."""
    fresh = difference({"digits:1": stats(100, {1: 100})}, {"digits:1": stats(7, {1: 7})})
    assert fresh.executions == {"digits:1": {1: 7}}
    assert difference({}, {"digits:1": stats(7, {1: 7})}) == fresh


def test_batches_over_time_add_up_to_the_whole() -> None:
    """Each stretch has what happened in it, seconds count from the start of the run, and nothing is counted twice."""
    samples = [
        (99.0, {"digits:1": stats(100, {1: 60})}),
        (99.5, {"digits:1": stats(100, {1: 60})}),
        (101.0, {"digits:1": stats(110, {1: 70}, 10_000_000)}),
        (102.0, {"digits:1": stats(110, {1: 70}, 10_000_000)}),
        (103.0, {"digits:1": stats(130, {1: 70, 4: 5}, 50_000_000)}),
    ]
    found = series(samples, started_at=100.0)
    assert [(m.start_s, m.end_s) for m in found] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    assert [m.executions for m in found] == [{"digits:1": {1: 10}}, {}, {"digits:1": {4: 5}}]
    assert [m.queue_ms for m in found] == [{"digits:1": 1.0}, {}, {"digits:1": 2.0}]


def test_a_run_that_begins_during_a_reading_loses_no_batch() -> None:
    """What a slow answer has counted since it was asked for belongs to the run's course as it does to the whole."""
    answers, asked_at = iter([stats(0, {}), stats(30, {1: 30})]), 0.0

    def take() -> Snapshot:
        nonlocal asked_at
        asked_at = time.time()
        return {"digits:1": next(answers)}

    with BatchWatch(take, period_s=60.0) as watch:
        pass
    found = watch.found(started_at=asked_at)
    assert found is not None
    assert [moment.executions for moment in found.series] == [found.executions] == [{"digits:1": {1: 30}}]


def test_statistics_that_end_are_a_problem_not_a_figure() -> None:
    """A server that stops giving statistics makes batch sizes unknown, with its reason."""
    answers = iter([{"digits:1": stats(0, {})}])

    def take() -> Snapshot:
        try:
            return next(answers)
        except StopIteration:
            raise ValueError("gone") from None

    with BatchWatch(take, period_s=60.0) as watch:
        pass
    assert watch.found(started_at=0.0) is None
    assert watch.problem == "batch sizes are unknown: gone"


@pytest.mark.parametrize(("duration", "period"), [(10.0, 1.0), (3600.0, 3.0)])
def test_long_runs_are_read_less_often(duration: float, period: float) -> None:
    """Once a second, and at most MAX_SAMPLES times."""
    assert period_s(duration) == period
