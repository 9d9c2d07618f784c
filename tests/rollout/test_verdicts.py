"""The simulation study in small, with exact binomial bounds, and its arrays against the controller's own code."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

from gateway.core.evidence_bets import log_wealth
from gateway.core.evidence_counts import ArmCounts, Block
from gateway.core.evidence_state import absorb, begin
from gateway.core.gates_ratio import log_worse
from gateway.core.rollout_policy import RolloutPolicy
from gateway.verdicts.__main__ import app, broken_promises
from gateway.verdicts.allgates import CANDIDATES, outcomes
from gateway.verdicts.judges import IntervalThreshold, MannWhitney, Sluice
from gateway.verdicts.study import Aborts, Walk, aborts, lower_bound, upper_bound, walk
from gateway.verdicts.traffic import BEYOND, NULLS, OUTAGE_EVERY_S, REGRESSIONS, Scenario, Schedule, second, seconds

ROLLOUTS = 300
SHORT = Schedule(step_s=40)
SOUND = [scenario for scenario in NULLS if scenario.kind != "keys" or scenario.by_key]


@pytest.mark.parametrize("scenario", SOUND, ids=lambda scenario: scenario.name)
def test_false_aborts_are_at_most_alpha(scenario: Scenario) -> None:
    """Looked at every second, an equally good candidate is not surely aborted more often than alpha."""
    for found in aborts(scenario, SHORT, rollouts=ROLLOUTS, seed=11, alone=True):
        assert found.lower <= RolloutPolicy().alpha, found


def test_counting_requests_of_sticky_keys_would_be_unsound() -> None:
    """The same keys counted by request abort far too often: why keys are counted."""
    (unsound,) = [scenario for scenario in NULLS if scenario.kind == "keys" and not scenario.by_key]
    (found,) = aborts(unsound, SHORT, rollouts=ROLLOUTS, seed=11, alone=True)
    assert found.lower > RolloutPolicy().alpha


def test_trusting_every_outcome_would_be_unsound_for_failed_batches() -> None:
    """Without learning shared causes the same healthy rollouts abort far too often: why it is the default."""
    (batches,) = [scenario for scenario in NULLS if scenario.name.startswith("failed batches") and scenario.base < 0.05]
    trusting = aborts(batches, SHORT, rollouts=ROLLOUTS, seed=11, policy=RolloutPolicy(clusters="none"), alone=True)
    assert all(found.lower > RolloutPolicy().alpha for found in trusting)


@pytest.mark.parametrize(("scenario", "most"), [(REGRESSIONS[0], 50), (REGRESSIONS[1], 60), (REGRESSIONS[2], 150)])
def test_regressions_are_caught_early(scenario: Scenario, most: int) -> None:
    """Every simulated regression is aborted, at the median within the stated candidate requests."""
    ours = aborts(scenario, SHORT, rollouts=ROLLOUTS, seed=12, alone=True)[0]
    assert ours.aborted == ROLLOUTS
    assert ours.median_requests <= most


def test_a_false_abort_rate_above_alpha_would_be_noticed() -> None:
    """The check can fail: three per cent of many rollouts break the promise, and so does a promotion without data."""
    scenario, nothing = NULLS[0], np.zeros(0)
    bad = Aborts(judge="Sluice", rollouts=10_000, aborted=300, seconds=nothing, requests=nothing)
    fine = Aborts(judge="Sluice", rollouts=10_000, aborted=90, seconds=nothing, requests=nothing)
    lost = Walk(rollouts=10, promoted=1, aborted=0, promote_s=1.0, promote_requests=0.0, step_s=())
    assert broken_promises([(scenario, [fine])], [], 0.01) == []
    assert len(broken_promises([(scenario, [bad])], [("no request reaches the candidate", lost)], 0.01)) == 2


def test_binomial_bounds_are_exact() -> None:
    """Known Clopper-Pearson values: none of 459 shows less than 1 % at 99 %."""
    assert upper_bound(0, 459) == pytest.approx(0.01, rel=0.01)
    assert lower_bound(459, 459) == pytest.approx(0.99, rel=0.01)
    assert (lower_bound(0, 10), upper_bound(10, 10)) == (0.0, 1.0)


def test_arrays_and_controller_see_the_same_evidence() -> None:
    """One simulated rollout fed through the controller's own functions gives the same evidence, second by second."""
    policy, schedule = RolloutPolicy(), Schedule(shares=(0.05, 0.4), step_s=30)
    scenario = Scenario(name="", base=0.02, ratio=2)
    many = Sluice(1, np.array(schedule.shares), policy)
    evidence = begin(policy)
    for t, now in enumerate(seconds(scenario, schedule, np.random.default_rng(7), 1)):
        stage = t // schedule.step_s
        many.take(now, stage)
        c, m, x, y = (int(v[0]) for v in (now.c, now.m, now.x, now.y))
        theirs = ArmCounts(assigned=m, ok=m - y, upstream_error=y)
        block = Block(
            epoch=stage + 1,
            share=schedule.shares[stage],
            candidate=ArmCounts(assigned=c, ok=c - x, upstream_error=x),
            reference=theirs,
            old=theirs,
        )
        evidence = absorb(evidence, block, policy)
        tallies = evidence.checks["server"].tallies if "server" in evidence.checks else ()
        assert [tally.x for tally in tallies] == pytest.approx(list(many.x[0][: len(tallies)]))
        assert evidence.objectives["error_rate"].wealth == pytest.approx(tuple(many.wealth[0]))
    assert log_worse(tallies, 1.0) != 0
    assert np.isfinite(log_wealth(many.wealth)).all()


@pytest.mark.parametrize("traffic", [0.0, 1.0])
def test_only_data_promotes(traffic: float) -> None:
    """A healthy candidate is promoted in minutes; one that gets no request never is."""
    clean, policy = Scenario(name="", base=0.0), RolloutPolicy()
    found = walk(clean, policy, rate=500, rollouts=20, seed=3, horizon_s=600, candidate_traffic=traffic)
    assert found.promoted == (20 if traffic else 0)
    assert found.aborted == 0


@pytest.mark.parametrize(
    ("name", "gates"),
    [("half as fast", {"latency"}), ("10 % of the shadow's answers differ, 2 % are noise", {"shadow"})],
)
def test_each_gate_finds_its_own_regression(name: str, gates: set[str]) -> None:
    """Through the controller's own functions with every gate on, the gate meant for it ends the rollout."""
    found = outcomes(name, dict(CANDIDATES)[name], rollouts=3, seed=1)
    assert found.aborted == 3
    assert set(found.failed_by) == gates


def test_the_other_judges_do_what_they_are_said_to_do() -> None:
    """Interval x threshold acts at its fifth failed check; the rank test not before fifty points of a step."""
    bad = Scenario(name="", base=0.0, worse=1.0)
    rng = np.random.default_rng(1)
    flagger, ranks = IntervalThreshold(4), MannWhitney(4, np.random.default_rng(2))
    first = {"flagger": 0, "ranks": 0}
    for t in range(1, 400):
        now = second(bad, 0.1, 100, rng, 4)
        if flagger.take(now, 0).all() and not first["flagger"]:
            first["flagger"] = t
        if ranks.take(now, 0).all() and not first["ranks"]:
            first["ranks"] = t
    assert first == {"flagger": 300, "ranks": 60}


@pytest.mark.parametrize("lasts_s", [1, 3])
def test_an_outage_fails_one_arm_whole_for_its_time(lasts_s: int) -> None:
    """Every request of the arm fails, for as many seconds as told, each arm about once in the stated time."""
    scenario = Scenario(name="", base=0.0005, kind="outage", lasts_s=lasts_s)
    schedule = Schedule(shares=(0.5,), step_s=3000)
    trace = list(seconds(scenario, schedule, np.random.default_rng(5), 20))
    out = np.array([[now.x == now.c, now.y == now.m] for now in trace])
    held = out.reshape(-1, lasts_s, *out.shape[1:])
    assert (held == held[:, :1]).all(), "an outage neither begins nor ends within its time"
    per_arm = held[:, 0].sum(axis=(0, 2))
    expected = schedule.step_s * 20 / OUTAGE_EVERY_S
    assert per_arm == pytest.approx([expected, expected], rel=0.25)
    both = held[:, 0].all(axis=1).sum()
    assert both < 0.1 * expected, "one arm by itself"


def test_a_burst_that_lasts_multiplies_whole_stretches() -> None:
    """Errors of seconds of one burst are alike, of neighbouring bursts they are not."""
    scenario = Scenario(name="", base=0.05, kind="arm", lasts_s=3)
    trace = list(seconds(scenario, Schedule(shares=(0.5,), step_s=600), np.random.default_rng(5), 20))
    rates = np.array([now.x / now.c for now in trace]).reshape(200, 3, 20)
    within = np.corrcoef(rates[:, 0].ravel(), rates[:, 1].ravel())[0, 1]
    between = np.corrcoef(rates[:-1, 2].ravel(), rates[1:, 0].ravel())[0, 1]
    assert within > 0.8
    assert abs(between) < 0.2


def test_causes_that_outlast_a_block_are_not_covered() -> None:
    """The page says so; were they covered, or were these settings harmless, it would have to say that."""
    outage = next(scenario for scenario in BEYOND if scenario.kind == "outage" and scenario.lasts_s > 1)
    found = aborts(outage, Schedule(step_s=150), rollouts=100, seed=11, alone=True)
    assert all(judged.lower > RolloutPolicy().alpha for judged in found)
    assert all(scenario.null for scenario in BEYOND)


def test_the_command_prints_its_page_whatever_the_processes() -> None:
    """A tiny study ends with a page that holds the tables, and success; several processes find the same."""
    small = {"rollouts": 10, "walks": 10, "step-s": 10, "horizon-s": 60, "all-gates": 0}
    pages = []
    for processes in ("1", "2"):
        words = [word for name, value in small.items() for word in (f"--{name}", str(value))]
        result = CliRunner().invoke(app, [*words, "--processes", processes])
        assert result.exit_code == 0, result.output
        pages.append(re.sub(r"\(seed .*\)", "", result.stdout))
    assert pages[0] == pages[1]
    for head in ("## False aborts", "### Causes that last", "## Detection", "## Whole rollouts"):
        assert head in pages[0]
    for scenario in (*NULLS, *BEYOND, *REGRESSIONS):
        assert f"| {scenario.name} |" in pages[0]
