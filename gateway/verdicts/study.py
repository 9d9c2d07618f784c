"""Runs the judges over simulated rollouts and counts what they do."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import beta

from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.rollout_stages import stages
from gateway.verdicts.judges import ErrorsGateAlone, IntervalThreshold, Judge, MannWhitney, Sluice
from gateway.verdicts.traffic import Floats, Scenario, Schedule, second, seconds

CHUNK = 2500

Map = Callable[..., Iterable[Any]]
"""`map`, or an executor's: the results are the same, because each part of a study has a seed of its own."""

HISTORY_S = 60
"""Seconds of the old version's traffic that are known when a rollout starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborts:
    """What one judge did in one setting.

    Attributes:
        judge: its name.
        rollouts: how many were simulated.
        aborted: how many it ended.
        seconds: time until then, of those it ended.
        requests: candidate requests until then, of those it ended.
    """

    judge: str
    rollouts: int
    aborted: int
    seconds: Floats = field(repr=False)
    requests: Floats = field(repr=False)

    @property
    def rate(self) -> float:
        """Part of the rollouts that was aborted."""
        return self.aborted / self.rollouts

    @property
    def upper(self) -> float:
        """Upper 99 % Clopper-Pearson bound of the abort rate."""
        return upper_bound(self.aborted, self.rollouts)

    @property
    def lower(self) -> float:
        """Lower 99 % Clopper-Pearson bound of the abort rate."""
        return lower_bound(self.aborted, self.rollouts)

    @property
    def median_seconds(self) -> float:
        """Median time to an abort; nan without one."""
        return float(np.median(self.seconds)) if self.aborted else float("nan")

    @property
    def median_requests(self) -> float:
        """Median candidate requests to an abort; nan without one."""
        return float(np.median(self.requests)) if self.aborted else float("nan")


def upper_bound(hits: int, trials: int, confidence: float = 0.99) -> float:
    """Exact binomial upper confidence bound of a probability."""
    return 1.0 if hits >= trials else float(beta.ppf(confidence, hits + 1, trials - hits))


def lower_bound(hits: int, trials: int, confidence: float = 0.99) -> float:
    """Exact binomial lower confidence bound of a probability."""
    return 0.0 if not hits else float(beta.ppf(1 - confidence, hits, trials - hits + 1))


def aborts(
    scenario: Scenario,
    schedule: Schedule,
    *,
    rollouts: int,
    seed: int,
    policy: RolloutPolicy | None = None,
    alone: bool = False,
    told: Callable[[int], None] = lambda done: None,
    over: Map = map,
) -> list[Aborts]:
    """Every judge on the same traces of one scenario, each looking as often as it does.

    Args:
        scenario: what happens.
        schedule: shares over time, the same for every judge.
        rollouts: number of simulated rollouts.
        seed: makes the traces repeatable.
        policy: ours; the default one when None.
        alone: only our own judges.
        told: called with the number of rollouts that were done since the last call.
        over: goes over the chunks, here or in other processes.
    """
    starts = range(0, rollouts, CHUNK)
    sizes = [min(CHUNK, rollouts - start) for start in starts]
    one = partial(_chunk, scenario, schedule, seed=seed, policy=policy or RolloutPolicy(), alone=alone)
    found: dict[str, list[tuple[Floats, Floats]]] = {}
    for size, judged in zip(sizes, over(one, starts, sizes), strict=True):
        for name, when, requests in judged:
            found.setdefault(name, []).append((when, requests))
        told(size)
    results = []
    for name, parts in found.items():
        when, requests = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        hit = np.isfinite(when)
        results.append(
            Aborts(judge=name, rollouts=rollouts, aborted=int(hit.sum()), seconds=when[hit], requests=requests[hit])
        )
    return results


def _chunk(
    scenario: Scenario, schedule: Schedule, start: int, size: int, *, seed: int, policy: RolloutPolicy, alone: bool
) -> Sequence[tuple[str, Floats, Floats]]:
    rng = np.random.default_rng([seed, start])
    # A key-based test has no counterpart in the guardrail, which counts requests: it is judged on its own.
    by_keys = scenario.kind == "keys"
    ours = Sluice(size, np.array(schedule.shares), policy, guardrail=not by_keys)
    judges: list[Judge] = [ours]
    if not by_keys:
        ours.remember(*_history(scenario, schedule.rate, rng, size))
        judges.append(ErrorsGateAlone(ours))
    if not alone:
        judges += [IntervalThreshold(size), MannWhitney(size, np.random.default_rng(rng.integers(1 << 62)))]
    when = {judge.name: np.full(size, np.inf) for judge in judges}
    requests = {judge.name: np.full(size, np.nan) for judge in judges}
    seen = np.zeros(size)
    for t, trace in enumerate(seconds(scenario, schedule, rng, size)):
        now = trace if scenario.by_key or not by_keys else replace(trace, units=None)
        seen += now.c
        for judge in judges:
            aborted = judge.take(now, t // schedule.step_s) & np.isinf(when[judge.name])
            when[judge.name][aborted] = t + 1
            requests[judge.name][aborted] = seen[aborted]
        if not scenario.null and all(np.isfinite(times).all() for times in when.values()):
            break
    return [(name, when[name], requests[name]) for name in when]


def _history(scenario: Scenario, rate: float, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
    """The old version's bad outcomes and requests in the time before the rollout."""
    before = [second(scenario, 0.0, rate, rng, size) for _ in range(HISTORY_S)]
    return np.sum([now.y for now in before], axis=0), np.sum([now.m for now in before], axis=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Whole rollouts under one policy: where they ended and when.

    Attributes:
        rollouts: how many were simulated.
        promoted: how many passed every step.
        aborted: how many were taken back.
        promote_s: median time to promotion; nan without one.
        promote_requests: median candidate requests to promotion; nan without one.
        step_s: per step, the time that each rollout which passed it spent there.
    """

    rollouts: int
    promoted: int
    aborted: int
    promote_s: float
    promote_requests: float
    step_s: tuple[Floats, ...]


def walk(
    scenario: Scenario,
    policy: RolloutPolicy,
    *,
    rate: float,
    rollouts: int,
    seed: int,
    horizon_s: int = 3600,
    candidate_traffic: float = 1.0,
) -> Walk:
    """Rollouts that advance by the policy's own rules, each at its own pace.

    Args:
        scenario: what happens; not repeated keys.
        policy: a canary.
        rate: requests per second of the route.
        rollouts: number of simulated rollouts.
        seed: makes it repeatable.
        horizon_s: what has not ended by then is held.
        candidate_traffic: part of its requests that reaches the candidate (0: a broken split).
    """
    ladder = [stage for stage in stages(policy) if stage.compares_traffic]
    rng = np.random.default_rng(seed)
    shares = np.array([stage.share for stage in ladder])
    judge = Sluice(rollouts, shares, policy)
    judge.remember(*_history(scenario, rate, rng, rollouts))
    weights = np.array([stage.weight / 100 for stage in ladder])
    baselines = np.array([stage.baseline / 100 for stage in ladder])
    slack, minimum_s, minimum = (
        np.array([float(getattr(stage, name)) for stage in ladder]) for name in ("slack", "min_time_s", "min_samples")
    )
    stage = np.zeros(rollouts, dtype=np.int64)
    entered, requests = np.zeros(rollouts), np.zeros(rollouts)
    ended, outcome = np.full(rollouts, np.inf), np.zeros(rollouts, dtype=np.int64)
    spent: list[list[float]] = [[] for _ in ladder]
    for t in range(1, horizon_s + 1):
        now = second(scenario, weights[stage], rate, rng, rollouts, share=shares[stage], baseline=baselines[stage])
        if candidate_traffic < 1:
            reached = rng.binomial(now.c.astype(np.int64), candidate_traffic).astype(np.float64)
            now = replace(now, c=reached, x=np.minimum(now.x, reached), units=None)
        live = outcome == 0
        requests[live] += now.c[live]
        failed = judge.take(now, stage) & live
        outcome[failed], ended[failed] = -1, t
        ready = live & ~failed & (t - entered >= minimum_s[stage]) & (judge.stage_seen >= minimum[stage])
        if ready.any():
            ready &= judge.passes(slack[stage])
        for i in np.flatnonzero(ready):
            spent[stage[i]].append(t - entered[i])
        last = ready & (stage == len(ladder) - 1)
        outcome[last], ended[last] = 1, t
        onward = ready & ~last
        stage[onward] += 1
        entered[onward] = t
        if (outcome != 0).all():
            break
    won = outcome == 1
    return Walk(
        rollouts=rollouts,
        promoted=int(won.sum()),
        aborted=int((outcome == -1).sum()),
        promote_s=float(np.median(ended[won])) if won.any() else float("nan"),
        promote_requests=float(np.median(requests[won])) if won.any() else float("nan"),
        step_s=tuple(np.array(times) for times in spent),
    )
