"""Locust as it is started for real: what it sends, what it counts, and how it ends."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import httpx
import pytest

from loadtest import locust_process
from loadtest.driver.messages import Progress
from loadtest.errors import BrokenRunError, UnreachableError
from loadtest.execute import Options, execute
from loadtest.locust_process import Workers
from loadtest.plan import Arm, make_plan
from loadtest.results import Result
from loadtest.scenario import Scenario, changed, resized
from loadtest.scenario_file import load_scenario, parse_scenario
from tests.loadtest.conftest import StartStub

FEW = """\
name: few
arrivals: open
spacing: even
shape: {kind: steady, level: 150, duration_s: 3}
warmup_s: 0
requests: [{name: digit, model: digits, input: digits}]
"""


def closed(users: float = 4, seconds: float = 3) -> Scenario:
    """Closed users that send digits."""
    return resized(load_scenario("digits-json"), peak=users, duration_s=seconds)


def drive(scenario: Scenario, url: str, processes: int = 1) -> Result:
    """Run a scenario against one server."""
    return execute(scenario, Options(arms=[Arm("host", url)], workers=Workers(processes=processes)))


def seen(url: str) -> int:
    """How many inferences the stub has answered."""
    return int(json.load(urlopen(url, timeout=30))["seen"])  # noqa: S310


def counted(result: Result) -> int:
    """How many requests the load generators have counted."""
    return sum(sum(c.latency.values()) + sum(c.errors.values()) for c in result.cells)


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("processes", [1, 2])
def test_every_request_is_counted_once(start_stub: StartStub, processes: int) -> None:
    """What the generators count is what the server saw, with one process and with a master and two workers."""
    url = start_stub("--latency", "0.002")
    result = drive(closed(), url, processes)
    assert counted(result) == seen(url) > 200
    assert result.groups[0].errors == 0
    assert len(result.generator.cpu_shares) == processes
    assert result.generator.missing == 0


def test_open_arrivals_send_what_was_asked_for(start_stub: StartStub) -> None:
    """An open run sends the planned number of requests, also when two processes share them."""
    url = start_stub()
    result = drive(parse_scenario(FEW, source="few"), url, processes=2)
    assert counted(result) == seen(url) == pytest.approx(450, abs=2)
    assert result.offered_per_s == {"host": pytest.approx(150)}


def test_failures_and_variants_are_counted(start_stub: StartStub) -> None:
    """Statuses become kinds of errors, and answers are told apart by the variant that gave them."""
    url = start_stub("--fail-share", "0.3", "--variant", "v1=0.75", "--variant", "v2=0.25")
    result = drive(closed(), url)
    whole = result.groups[0]
    assert whole.error_rate == pytest.approx(0.3, abs=0.08)
    assert list(whole.error_kinds) == ["http_503"]
    rates = {g.where: g.rate_per_s for g in result.groups}
    assert rates["arm=host,variant=v1"] / rates["arm=host,variant=v2"] == pytest.approx(3, rel=0.35)
    assert result.verdict == "fail"


def test_a_server_that_never_answers_costs_a_timeout(start_stub: StartStub) -> None:
    """Requests without an answer end at the scenario's timeout and count as such, and the run still ends."""
    url = start_stub("--latency", "60")
    scenario = changed(closed(2, 3), timeout_s=0.5, warmup_s=0.0)
    began = time.monotonic()
    result = drive(scenario, url)
    assert set(result.groups[0].error_kinds) == {"timeout"}
    assert result.groups[0].errors >= 4
    assert result.groups[0].latency.p50_ms is None
    assert [j.verdict for j in result.objectives] == ["no_data", "no_data", "fail", "fail"]
    assert time.monotonic() - began < 60


def test_two_arms_take_turns(start_stub: StartStub) -> None:
    """Each of two servers is driven in its own slices, and the slower one is found to be slower."""
    slow, fast = start_stub("--latency", "0.02"), start_stub("--latency", "0.005")
    arms = [Arm("slow", slow), Arm("fast", fast)]
    scenario = resized(load_scenario("digits-binary"), peak=4, duration_s=11)
    result = execute(scenario, Options(arms=arms, arm_slice_s=0.5))
    for cell in result.cells:
        assert cell.arm == arms[result.slicing.arm_of(cell.slice)].name
    assert result.comparison is not None
    p50 = result.comparison.lines[0]
    assert result.comparison.paired
    assert p50.ratio is not None
    assert p50.ratio > 1.5
    assert p50.finding == "higher"


def test_an_unreachable_server_is_named() -> None:
    """Nothing is started when the server does not answer."""
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:1 does not answer"):
        drive(closed(), "http://127.0.0.1:1")


def test_locusts_death_is_an_error_and_leaves_nothing(start_stub: StartStub) -> None:
    """Killing the load generator mid-run ends the run with one clear error and no process left behind."""
    plan = make_plan(closed(2, 60), [Arm("host", start_stub())], arm_slice_s=2)
    children: list[int] = []

    def kill(_: Progress) -> None:
        children.extend(pid for pid in _children(os.getpid()) if _is_locust(pid))
        for pid in children:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(BrokenRunError, match="ended with status -9 and no result"):
        locust_process.run(plan, Workers(), kill)
    assert children
    assert not any(lives(pid) for pid in children)


def test_a_lost_worker_makes_the_run_an_error(start_stub: StartStub) -> None:
    """When one of two workers dies, the figures are marked incomplete and the verdict is error."""
    url = start_stub()
    victims: list[int] = []

    def kill_one(progress: Progress) -> None:
        if victims or progress.requests == 0:
            return
        # Only those of this test: another one may drive its own beside it.
        masters = [pid for pid in _children(os.getpid()) if _is_locust(pid)]
        workers = [pid for master in masters for pid in _children(master) if _is_locust(pid)]
        if workers:
            victims.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    scenario = changed(closed(2, 4), timeout_s=1.0)
    result = execute(scenario, Options(arms=[Arm("host", url)], workers=Workers(processes=2)), kill_one)
    assert victims
    assert result.generator.missing == 1
    assert result.verdict == "error"
    assert any("incomplete" in note for note in result.notes)


def _children(parent: int) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdecimal() and _parent(process) == parent:
                found.append(int(process.name))
    return found


def _parent(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def _is_locust(pid: int) -> bool:
    try:
        return b"locustfile" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_locust_settings_of_the_environment_do_not_leak_in(
    start_stub: StartStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOCUST_* variables of the shell cannot change a run."""
    monkeypatch.setenv("LOCUST_RUN_TIME", "1s")
    monkeypatch.setenv("LOCUST_MASTER", "1")
    result = drive(parse_scenario(FEW, source="few"), start_stub())
    assert result.groups[0].requests == pytest.approx(450, abs=1)


def test_the_stub_speaks_http(start_stub: StartStub) -> None:
    """The scripted server answers any client: keep-alive, errors and the variant header."""
    url = start_stub("--variant", "only=1")
    with httpx.Client(trust_env=False) as client:
        for _ in range(3):
            answer = client.post(f"{url}/v2/models/m/infer", content=b"x" * 100_000)
            assert (answer.status_code, answer.headers["x-sluice-variant"]) == (200, "only")
    assert seen(url) == 3
