"""A stall that is known exactly: open arrivals show it, closed users hide it."""

import pytest

from loadtest.execute import Options, execute
from loadtest.plan import Arm
from loadtest.results import Result
from loadtest.scenario_file import parse_scenario
from tests.loadtest.conftest import StartStub

STALL = ("--latency", "0.002", "--stall-at", "2", "--stall", "1")
FILE = """\
name: stall
arrivals: {arrivals}
spacing: even
connections: 100
shape: {{kind: steady, level: {level}, duration_s: 6}}
warmup_s: 0
requests: [{{name: digit, model: digits, input: digits}}]
objectives: [{{metric: latency_p90_ms, below: 300}}]
"""


def drive(start_stub: StartStub, arrivals: str, level: int) -> Result:
    """Six seconds against a server that answers nothing between the second and the third."""
    scenario = parse_scenario(FILE.format(arrivals=arrivals, level=level), source="stall")
    return execute(scenario, Options(arms=[Arm("host", start_stub(*STALL))]))


def test_open_arrivals_show_a_stall_that_closed_users_hide(start_stub: StartStub) -> None:
    """One second of silence is a sixth of the time: open latency says so, closed users all but miss it."""
    closed, opened = drive(start_stub, "closed", 4), drive(start_stub, "open", 200)
    closed_latency, open_latency = closed.groups[0].latency, opened.groups[0].latency

    # Four users met the stall once each, so it is a handful of hundreds of answers (thousands on a machine at rest).
    assert closed.groups[0].requests > 200
    assert closed_latency.p90_ms is not None
    assert closed_latency.p90_ms < 300
    assert closed_latency.max_ms is not None
    assert closed_latency.max_ms > 900
    assert closed.verdict == "pass"

    # Of requests that are due regularly, a sixth is due during the stall and waits half of it on average.
    # A busy machine can only add to that.
    assert open_latency.p90_ms is not None
    assert open_latency.p90_ms > 300
    assert open_latency.p99_ms is not None
    assert 850 < open_latency.p99_ms < 10_000
    assert opened.verdict == "fail"


def test_too_few_connections_do_not_hide_a_stall(start_stub: StartStub) -> None:
    """With 4 connections the rest is sent late; latency counts from when it was due, the service time does not."""
    text = FILE.format(arrivals="open", level=150).replace("connections: 100", "connections: 4")
    result = execute(parse_scenario(text, source="stall"), Options(arms=[Arm("host", start_stub(*STALL))]))
    whole = result.groups[0]
    assert whole.latency.p90_ms is not None
    assert whole.latency.p90_ms > 300
    assert whole.service.p90_ms is not None
    assert whole.service.p90_ms < 300


def test_what_could_not_be_sent_in_time_is_an_error(start_stub: StartStub) -> None:
    """A server that takes a twentieth of what is offered cannot look good by having been sent little."""
    text = FILE.format(arrivals="open", level=400).replace("connections: 100", "connections: 1")
    text = text.replace("latency_p90_ms, below: 300", "error_rate, below: 0.01")
    result = execute(
        parse_scenario(text, source="overload"), Options(arms=[Arm("host", start_stub("--latency", "0.05"))])
    )
    whole = result.groups[0]
    assert whole.requests == pytest.approx(2400, abs=2)
    assert whole.error_kinds["unsent"] > 2000
    assert result.verdict == "fail"
