"""A controller killed anywhere: the same steps, each once, and the same end."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.rollout import RolloutState
from gateway.core.rollout_policy import Hook, RolloutPolicy, Step
from gateway.core.rollout_table import Phase
from gateway.core.verdict import Outcome, Verdict
from tests.rollout.walker import KilledError, World, run, verdict, world

POLICY = RolloutPolicy(
    steps=(Step(weight=1, min_time_s=3), Step(weight=10, min_time_s=3), Step(weight=50, min_time_s=3)),
    hooks=(
        Hook(phase="pre_step", url="http://hook/pre"),
        Hook(phase="post_step", url="http://hook/post"),
        Hook(phase="confirm_promotion", url="http://hook/confirm"),
    ),
    rollback_window_s=4,
)


def good(state: RolloutState, now: float) -> Verdict:
    return verdict(Outcome.PASS)


def bad_at_ten(state: RolloutState, now: float) -> Verdict:
    return verdict(Outcome.FAIL if state.stage == 1 else Outcome.PASS)


def until_done(to: World, judge: object, killer: Iterator[bool]) -> int:
    """Restarts the controller until the rollout ends; the number of deaths."""
    deaths = 0
    for _ in range(5000):
        try:
            run(to, POLICY, judge, seconds=400, killer=killer)  # type: ignore[arg-type]
        except KilledError:
            deaths += 1
            continue
        assert to.state.final
        return deaths
    raise AssertionError("the rollout never ended")


def trace(of: World) -> tuple[Phase, list[str], list[float], list[str]]:
    """End, effects in order of first execution, weights, and the decisions that moved it."""
    moves = [f"{d.before}:{d.event}" for d in of.decisions() if d.event != "acknowledged"]
    return of.state.phase, [f"{i} {e.kind}" for i, e in of.done.items()], of.weights(), moves


@pytest.mark.parametrize("judge", [good, bad_at_ten])
def test_one_death_at_every_point_changes_nothing(judge: object) -> None:
    """Killed once, at each single point of the rollout in turn, it ends with the same effects in the same order."""
    whole = world()
    assert until_done(whole, judge, iter(())) == 0
    point = 0
    while True:
        told = (i == point for i in range(point + 1))
        once = world()
        if until_done(once, judge, told) == 0:
            break
        assert trace(once) == trace(whole), f"differs when killed at point {point}"
        point += 1
    assert point > 30


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.floats(0.01, 0.4), st.sampled_from([good, bad_at_ten]))
def test_many_deaths_change_nothing(seed: int, chance: float, judge: object) -> None:
    """Killed again and again at random points, no step is repeated and none is skipped."""
    dice = random.Random(seed)
    whole, often = world(), world()
    until_done(whole, judge, iter(()))
    until_done(often, judge, iter(lambda: dice.random() < chance, None))
    assert trace(often) == trace(whole)
    assert often.executions >= whole.executions
