"""Strategies that end with a report: it holds what was found, and nobody promotes by way of it."""

import pytest

from gateway.core.rollout import Command
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.rollout_table import Phase
from gateway.core.verdict import Outcome
from tests.rollout.walker import always, run, world

REPORTS = [RolloutPolicy(strategy="ab", max_time_s=50), RolloutPolicy(strategy="shadow", max_time_s=50)]


@pytest.mark.parametrize("policy", REPORTS, ids=lambda policy: policy.strategy)
@pytest.mark.parametrize("full", [False, True])
def test_a_report_cannot_be_promoted(policy: RolloutPolicy, full: bool) -> None:
    """Not even in full: the refusal says what to do in its place, and the shares stay as they are."""
    ask = Command(id="p", kind="promote", by="ann", full=full)
    done = run(world(), policy, always(Outcome.PASS), seconds=20, commands={10: ask})
    (refused,) = [d for d in done.decisions() if d.event == "refused_command"]
    assert "ends with a report and promotes nothing" in refused.reason
    assert done.state.phase is Phase.JUDGING
    assert 100.0 not in done.weights()


@pytest.mark.parametrize("policy", REPORTS, ids=lambda policy: policy.strategy)
@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.NO_DATA])
def test_the_end_says_what_was_found(policy: RolloutPolicy, outcome: Outcome) -> None:
    """The last decision has the verdict, in its reason too, whatever it is; it ends when its time is over."""
    done = run(world(), policy, always(outcome), seconds=200)
    (end,) = [d for d in done.decisions() if d.event == "finished"]
    assert end.reason == f"50 s are over ({outcome}: because)"
    assert end.verdict is not None
    assert end.verdict.outcome is outcome
    assert done.state.phase is Phase.COMPLETED
    assert done.kinds()[-1] == "finish"


@pytest.mark.parametrize("policy", REPORTS, ids=lambda policy: policy.strategy)
def test_a_measured_version_that_fails_is_taken_back_before_the_end(policy: RolloutPolicy) -> None:
    """Measuring is no reason to go on harming users, or the backends that serve them."""
    done = run(world(), policy, always(Outcome.FAIL), seconds=200)
    assert done.state.phase is Phase.ABORTED
    assert done.now < 50
