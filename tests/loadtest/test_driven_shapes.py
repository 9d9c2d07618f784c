"""Every shape as a real Locust drives it: how much is due when."""

from collections import Counter

import numpy as np
import pytest

from loadtest.execute import Options, execute
from loadtest.locust_process import Workers
from loadtest.plan import Arm
from loadtest.results import Result
from loadtest.scenario import Scenario, changed, resized
from loadtest.scenario_file import load_scenario
from tests.loadtest.conftest import StartStub


def drive(scenario: Scenario, url: str, processes: int = 1) -> Result:
    """A run in which every slice counts."""
    scenario = changed(scenario, warmup_s=0.0)
    return execute(scenario, Options(arms=[Arm("host", url)], workers=Workers(processes=processes)))


def by_slice(result: Result) -> Counter[int]:
    """Requests by the second in which they were due."""
    found = Counter[int]()
    for cell in result.cells:
        found[cell.slice] += sum(cell.latency.values()) + sum(cell.errors.values())
    return found


@pytest.mark.parametrize("name", ["ramp", "step", "spike", "soak", "2x-peak", "digits-open"])
def test_open_arrivals_follow_the_shape(name: str, start_stub: StartStub) -> None:
    """In each second as many as the built-in scenario's curve says, however fast the answers are."""
    scenario = changed(resized(load_scenario(name), peak=120, duration_s=6), spacing="even")
    seen = by_slice(drive(scenario, start_stub("--latency", "0.002"), processes=2))
    due = np.diff(scenario.shape.curve().cumulative(np.arange(7.0)))
    # Each of the two generators may be a request off at either end of a second.
    assert [seen[second] for second in range(6)] == pytest.approx(list(due), abs=4)
    assert set(seen) <= set(range(6))


def test_closed_users_follow_the_shape(start_stub: StartStub) -> None:
    """Nobody sends while there are no users, and a third of the users sends less than all of them."""
    shape = {"kind": "step", "levels": [0, 6, 2], "each_s": 2}
    scenario = changed(load_scenario("digits-json"), shape=shape)
    seen = by_slice(drive(scenario, start_stub("--latency", "0.1")))
    assert seen[0] + seen[1] == 0
    # An answer takes a tenth of a second, so users send at most ten times a second each.
    assert 0 < seen[4] + seen[5] <= 2 * 2 * 10 + 6
    assert seen[4] + seen[5] < seen[2] + seen[3] <= 6 * 2 * 10 + 6
