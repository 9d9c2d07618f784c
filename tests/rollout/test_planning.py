"""Planning: figures that move the right way, and refusals with a reason."""

import pytest

from gateway.core.rollout_policy import RolloutPolicy, Step
from gateway.errors import RejectedError
from gateway.planning import plan

QUICK = RolloutPolicy(steps=(Step(weight=5, min_time_s=10, slack=3), Step(weight=50, min_time_s=10)))


def test_a_plan_says_what_each_step_needs() -> None:
    """A severe regression is caught by every step, sooner with more traffic, and a healthy candidate gets through."""
    found = plan(QUICK, rate=500, base=0.001, worse=0.05, rollouts=60, horizon_s=900)
    first, last = found.steps
    assert (first.requests_per_s, last.requests_per_s) == (25, 250)
    assert first.caught == last.caught == found.caught == 1
    assert found.slipped == 0
    assert found.promoted > 0.9
    assert found.promote_s is not None
    assert first.catch_s is not None
    assert last.catch_s is not None
    assert last.catch_s < first.catch_s <= (first.catch_p90_s or 0)
    assert first.pass_s is not None
    assert first.pass_s >= 10
    assert first.pass_requests == 25 * first.pass_s


def test_less_traffic_takes_longer() -> None:
    """A tenth of the traffic needs more time for the same regression."""
    slow, fast = (plan(QUICK, rate=rate, base=0.001, worse=0.05, rollouts=40, horizon_s=900) for rate in (50, 500))
    assert (slow.steps[0].catch_s or 1e9) > 2 * (fast.steps[0].catch_s or 0)


def test_what_cannot_be_caught_in_time_is_said() -> None:
    """Hardly any traffic and a slight regression: nothing is caught within the time, and nothing is promoted."""
    found = plan(QUICK, rate=2, base=0.001, worse=0.0012, rollouts=20, horizon_s=120)
    assert found.steps[0].caught < 0.2
    assert found.promoted == 0
    assert found.promote_s is None


def test_an_equal_baseline_is_planned_as_such() -> None:
    """With an equal arm the same regression needs more candidate requests than against all traffic."""
    equal = RolloutPolicy(steps=QUICK.steps, baseline="equal")
    beside, against_all = (plan(p, rate=500, base=0.01, worse=0.03, rollouts=40, horizon_s=900) for p in (equal, QUICK))
    assert (beside.steps[0].catch_requests or 0) > (against_all.steps[0].catch_requests or 1e9)


@pytest.mark.parametrize(
    ("policy", "rates", "message"),
    [
        (RolloutPolicy(strategy="shadow"), (500, 0.001, 0.01), "compares no live traffic"),
        (QUICK, (500, 0.01, 0.01), "base < worse"),
        (QUICK, (0, 0.001, 0.01), "rate > 0"),
    ],
)
def test_impossible_plans_are_refused(policy: RolloutPolicy, rates: tuple[float, float, float], message: str) -> None:
    """A strategy without live comparison and rates without sense get one clear message."""
    with pytest.raises(RejectedError, match=message):
        plan(policy, rate=rates[0], base=rates[1], worse=rates[2])
