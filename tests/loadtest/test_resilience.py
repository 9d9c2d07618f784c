"""The figures of resilience: their judging on made-up values, their tools on real processes, one figure in short."""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from loadtest import servers
from loadtest.cli_resilience import Name
from loadtest.errors import BrokenRunError
from loadtest.resilience import ask, crossover, figures, gateway, load, loads, markdown, overload, processes, replica
from loadtest.resilience.backend import Mode
from loadtest.resilience.figures import Figure, Place, Resilience, Settings
from loadtest.resilience.load import Outcome


def test_ratios_are_paired_and_missed_only_with_their_whole_interval() -> None:
    """A machine that slows down changes no ratio; one bad round makes a miss inconclusive, not a failure."""
    reference = [1.0, 2.0, 4.0, 8.0, 16.0]
    steady = figures.paired([2 * x for x in reference], reference)
    assert steady is not None
    assert (steady.ratio, steady.low, steady.high) == pytest.approx((2.0, 2.0, 2.0))
    assert figures.ratio_at_most("r", steady, 1.2).verdict == "fail"
    assert figures.ratio_at_most("r", steady, 2.01).verdict == "pass"
    mixed = figures.paired([1.0, 2.2, 3.0, 20.0, 32.0], reference)
    assert figures.ratio_at_most("r", mixed, 1.05).verdict == "inconclusive"
    assert figures.ratio_at_most("r", figures.paired([None], [1.0]), 1.0).verdict == "no_data"


def test_a_ratio_below_its_limit_must_be_so_with_its_whole_interval() -> None:
    """A middle below the limit is no proof while rounds differ too much; one wild round among many does no harm."""
    wide = figures.paired([0.7, 0.8, 1.0, 1.2, 1.3], [1.0] * 5)
    assert wide is not None
    assert wide.ratio < 1.05
    assert figures.ratio_at_most("r", wide, 1.05).verdict == "inconclusive"
    steady = figures.paired([*[1.0, 1.01, 0.99] * 10, 50.0], [1.0] * 31)
    assert figures.ratio_at_most("r", steady, 1.05).verdict == "pass"


def test_a_slower_process_and_a_slow_moment_cancel_out() -> None:
    """One gateway that is twice as slow, and moments that are ten times as slow, are not the feature's doing."""

    def visit(latency_s: float) -> list[Outcome]:
        return [Outcome(0.0, latency_s, "200", "")] * 100

    moments = [1.0, 10.0, 3.0, 1.0, 1.0, 7.0] * 4
    cost, slow = 1.2, 2.0
    with_it = [visit(moment * cost * (slow if i % 2 else 1.0)) for i, moment in enumerate(moments)]
    without = [visit(moment * (1.0 if i % 2 else slow)) for i, moment in enumerate(moments)]
    found = crossover.ratio_of(with_it, without)
    assert found is not None
    assert (found.ratio, found.low, found.high, found.rounds) == pytest.approx((cost, cost, cost, 12))
    assert crossover.ratio_of([[], visit(1.0)], [visit(1.0), visit(1.0)]) is None


def test_nothing_sent_proves_nothing() -> None:
    """No failures among no requests is no data; one failure among many is a miss."""
    assert figures.none_of("failed", 0, 0).verdict == "no_data"
    assert figures.none_of("failed", 0, 10).verdict == "pass"
    assert figures.none_of("failed", 1, 10).verdict == "fail"
    assert figures.at_least("goodput", 0.84, 0.85).verdict == "fail"
    assert figures.at_most("seconds", None, 5).verdict == "no_data"


def test_goodput_counts_useful_answers_inside_the_window() -> None:
    """Late answers, refusals, and answers before the start has settled or after the end do not count."""
    at = [0.0, 0.6, 0.7, 0.8, 2.4]
    ends = [0.1, 0.7, 3.5, 0.9, 2.6]
    kinds = ["200", "200", "200", "503", "200"]
    outcomes = [Outcome(a, e - a, k, "") for a, e, k in zip(at, ends, kinds, strict=True)]
    assert overload.goodput(outcomes, 2.5) == pytest.approx(1 / 2.0)


def test_the_backend_serves_no_more_than_its_capacity() -> None:
    """With two places of 20 ms each, forty requests at once take at least 0.4 s, and all are answered."""
    with processes.backend(slots=2, service_ms=20) as backend:
        begun = time.monotonic()
        outcomes = load.visit(backend.port, 4000, 0.01)
        assert {o.kind for o in outcomes} == {"200"}
        assert time.monotonic() - begun > (len(outcomes) // 2 - 1) * 0.02
        backend.become(Mode.FAIL)
        assert load.failures(load.visit(backend.port, 100, 0.1)).keys() == {"500"}


def test_how_a_request_ends_is_told_apart() -> None:
    """Nobody listening is refused, no answer in time a timeout, an end without an answer closed."""
    with processes.backend(mode=Mode.HANG) as backend:
        assert load.failures(load.visit(backend.port, 50, 0.1, timeout_s=0.3)).keys() == {"timeout"}
    assert load.failures(load.visit(backend.port, 50, 0.1)).keys() == {"refused"}

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def closed() -> list[Outcome]:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        client = load.Load(server.sockets[0].getsockname()[1], load.request())
        await client.at_rate(50, 0.1)
        server.close()
        return client.outcomes

    found = load.failures(asyncio.run(closed()))
    assert found
    assert found.keys() <= {"closed", "reset"}


def test_processes_end_with_the_block() -> None:
    """A backend, even a stopped one, is gone when its block ends."""
    import signal

    with processes.backend() as backend:
        backend.signal(signal.SIGSTOP)
    assert ask.fetch(backend.url, within_s=1)[0] == 0
    with pytest.raises(BrokenRunError, match="answers nothing"):
        ask.fetch_json(f"{backend.url}/api")


def test_a_crowd_of_slow_clients_holds_its_connections(tmp_path: Path) -> None:
    """Thirty slow clients are connected, stay so, and take no slot; a healthy request is served beside them."""
    with ExitStack() as stack:
        backend = stack.enter_context(processes.backend())
        pools, routes = [gateway.pool([backend.url], max_in_flight=2)], [gateway.route(max_in_flight=2)]
        one = stack.enter_context(gateway.running(tmp_path, "crowd", pools, routes))
        options = ["--port", str(one.port), "--clients", "30", "--every", "0.2"]
        crowd = stack.enter_context(processes.child("crowd", *options))
        assert servers.first_line(crowd, "the crowd") == "30\n"
        processes.wait_until(lambda: one.ask("/workers")[0]["connections"] >= 30, 10, "the gateway sees them")
        assert load.failures(load.visit(one.port, 50, 0.5)) == {}
        assert one.ask("/workers")[0]["in_flight"] == 0


def test_a_failing_replica_is_seen_to_go_and_to_return(tmp_path: Path) -> None:
    """One of four replicas that answers 500 is noticed, costs a few requests, and serves again once it is well."""
    with ExitStack() as stack:
        figure = replica.replica(Settings(), Place(tmp_path, stack, lambda _: None), ["answers 500"])
    assert [row[0] for row in figure.rows] == ["answers 500"]
    for row in figure.rows:
        assert isinstance(row[2], int)
        assert 0 < row[2] < 100
        assert all(value is not None for value in row)
    assert len(figure.targets) == 2


def test_both_ways_to_load_are_shown_and_one_is_judged(tmp_path: Path) -> None:
    """Each arm's loads take as long as the version sleeps, each time anew, and requests come meanwhile."""
    with ExitStack() as stack:
        figure = loads.loads(Settings(rounds=2, seconds=0.5), Place(tmp_path, stack, lambda _: None))
    found = {row[0]: dict(zip(figure.columns, row, strict=True)) for row in figure.rows}
    assert found.keys() == {"gRPC", "HTTP"}
    for row in found.values():
        assert row["loads"] == 2
        assert float(str(row["s each"])) >= 0.5
        assert int(str(row["requests"])) > 20
        assert int(str(row["waited"])) + int(str(row["failed"])) <= int(str(row["requests"]))
    assert all(target.objective.startswith("gRPC") for target in figure.targets)


def test_the_page_has_every_target_and_no_path() -> None:
    """Targets, notes, methods and the command are on the page."""
    target = figures.at_most("x", 1.0, 2.0)
    figure = Figure("kill", "Killed", "What was done.", ["a", "b"], [["one", 1234], ["two", None]], [target], ["odd"])
    machine = {"cpu": "Some CPU", "cores": 2, "memory_gib": 4, "kernel": "Linux 6.1", "python": "3.11.2"}
    result = Resilience(figures.FORMAT, "2026-01-01", Settings(), machine, [figure], "pass")
    page = markdown.render(result, "sluice loadtest resilience --all")
    for text in (target.objective, "| one | 1,234 |", "| two | - |", "What was done.", "Note: odd.", "--all`"):
        assert text in page


def test_the_command_says_what_it_would_run_and_wants_a_figure() -> None:
    """A dry run starts nothing; without a figure it is wrong usage."""
    call = [sys.executable, "-m", "loadtest", "resilience"]
    dry = subprocess.run([*call, "--all", "--dry-run"], capture_output=True, text=True, check=True)
    assert dry.stdout == f"figures: {', '.join(Name)}\n"
    nothing = subprocess.run(call, capture_output=True, text=True, check=False)
    assert nothing.returncode == 2
    assert "name a figure" in nothing.stderr


def test_a_figure_by_command(tmp_path: Path) -> None:
    """One figure in tiny form writes result and page, and its exit code is its verdict's."""
    call = [sys.executable, "-m", "loadtest", "resilience", "slow-clients", "--slow-clients", "20"]
    files = ["--json", str(tmp_path / "r.json"), "--markdown", str(tmp_path / "r.md")]
    done = subprocess.run(
        [*call, "--seconds", "0.3", "--rounds", "1", *files, "-o", "json"], capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 8, 9}, done.stderr
    shown, stored = json.loads(done.stdout), json.loads((tmp_path / "r.json").read_text())
    assert shown == stored
    assert stored["figures"][0]["targets"][1]["verdict"] == "pass"
    page = (tmp_path / "r.md").read_text()
    assert "20 slow clients" in page
    assert str(tmp_path) not in page
