"""What a rollout will take before it is started: requests and time per step, by simulation of the policy itself."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.rollout_stages import Stage, stages
from gateway.errors import RejectedError
from gateway.verdicts.judges import Sluice
from gateway.verdicts.study import HISTORY_S, walk
from gateway.verdicts.traffic import Floats, Scenario, second


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What one step needs. Times are seconds, requests the candidate's; None where it never came to it.

    Attributes:
        name: of the step.
        weight: candidate's share, per cent.
        requests_per_s: candidate requests per second.
        pass_s: median time until a candidate as good as the old version passes the step.
        pass_p90_s: time by which nine in ten have passed it.
        pass_requests: candidate requests in the median time.
        caught: part of the simulated regressions that this step alone catches within the time simulated.
        catch_s: median time until it does.
        catch_p90_s: time by which nine in ten are caught.
        catch_requests: median candidate requests until then.
    """

    name: str
    weight: float
    requests_per_s: float
    pass_s: float | None
    pass_p90_s: float | None
    pass_requests: float | None
    caught: float
    catch_s: float | None
    catch_p90_s: float | None
    catch_requests: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole rollout, and each of its steps.

    Attributes:
        rate: requests per second of the route.
        base: error rate of the old version.
        worse: error rate of the regression to catch.
        rollouts: number of simulated rollouts behind each figure.
        horizon_s: time simulated.
        steps: the steps.
        promote_s: median time to promotion of a candidate as good as the old version.
        promoted: part of such candidates that is promoted within the time simulated.
        false_aborts: part of such candidates that is aborted.
        caught: part of the regressions that the whole rollout aborts.
        slipped: part of the regressions that it promotes.
    """

    rate: float
    base: float
    worse: float
    rollouts: int
    horizon_s: int
    steps: tuple[StepPlan, ...]
    promote_s: float | None
    promoted: float
    false_aborts: float
    caught: float
    slipped: float


def plan(
    policy: RolloutPolicy,
    *,
    rate: float,
    base: float,
    worse: float,
    rollouts: int = 300,
    seed: int = 1,
    horizon_s: int = 3600,
    told: Callable[[str], None] = lambda what: None,
) -> Plan:
    """Simulates the policy's errors gate and error-rate guardrail against a healthy and a worse candidate.

    Args:
        policy: what to plan.
        rate: requests per second of the route.
        base: error rate of the old version, in [0, 1).
        worse: error rate of the regression to catch, above `base`.
        rollouts: simulated rollouts per figure.
        seed: makes the figures repeatable.
        horizon_s: longest time simulated.
        told: called with what is simulated next, for progress.

    Raises:
        RejectedError: when the policy has no step at which live traffic is compared, or the rates make no sense.
    """
    ladder = [stage for stage in stages(policy) if stage.compares_traffic]
    if not ladder:
        raise RejectedError(f"strategy {policy.strategy} compares no live traffic: there is nothing to plan")
    if not 0 <= base < worse <= 1 or rate <= 0:
        raise RejectedError(
            f"rates must satisfy 0 <= base < worse <= 1 and rate > 0 (base {base:g}, worse {worse:g}, rate {rate:g})"
        )
    healthy, regressed = Scenario(name="", base=base), Scenario(name="", base=base, worse=worse)
    told("a healthy candidate")
    good = walk(healthy, policy, rate=rate, rollouts=rollouts, seed=seed, horizon_s=horizon_s)
    told("the regression")
    bad = walk(regressed, policy, rate=rate, rollouts=rollouts, seed=seed + 1, horizon_s=horizon_s)
    steps = []
    for i, stage in enumerate(ladder):
        told(stage.name)
        per_s, pass_s = rate * stage.weight / 100, _quantile(good.step_s[i], 0.5)
        when, requests = _catch(
            regressed, policy, stage, rate=rate, rollouts=rollouts, seed=seed + 2 + i, horizon_s=horizon_s
        )
        steps.append(
            StepPlan(
                name=stage.name,
                weight=stage.weight,
                requests_per_s=per_s,
                pass_s=pass_s,
                pass_p90_s=_quantile(good.step_s[i], 0.9),
                pass_requests=None if pass_s is None else per_s * pass_s,
                caught=len(when) / rollouts,
                catch_s=_quantile(when, 0.5),
                catch_p90_s=_quantile(when, 0.9),
                catch_requests=_quantile(requests, 0.5),
            )
        )
    return Plan(
        rate=rate,
        base=base,
        worse=worse,
        rollouts=rollouts,
        horizon_s=horizon_s,
        steps=tuple(steps),
        promote_s=None if not good.promoted else good.promote_s,
        promoted=good.promoted / rollouts,
        false_aborts=good.aborted / rollouts,
        caught=bad.aborted / rollouts,
        slipped=bad.promoted / rollouts,
    )


def _catch(
    scenario: Scenario, policy: RolloutPolicy, stage: Stage, *, rate: float, rollouts: int, seed: int, horizon_s: int
) -> tuple[Floats, Floats]:
    """Seconds and candidate requests until the abort, of the rollouts that this step alone aborts."""
    rng = np.random.default_rng(seed)
    judge = Sluice(rollouts, np.array([stage.share]), policy)
    judge.remember(
        rng.binomial(round(rate * HISTORY_S), scenario.base, rollouts).astype(np.float64),
        np.full(rollouts, rate * HISTORY_S),
    )
    when, spent, requests = np.full(rollouts, np.inf), np.zeros(rollouts), np.zeros(rollouts)
    weight = stage.weight / 100
    for t in range(1, horizon_s + 1):
        now = second(scenario, weight, rate, rng, rollouts, share=stage.share, baseline=stage.baseline / 100)
        requests += now.c
        aborted = judge.take(now, 0) & np.isinf(when)
        when[aborted], spent[aborted] = t, requests[aborted]
        if np.isfinite(when).all():
            break
    hit = np.isfinite(when)
    return when[hit], spent[hit]


def _quantile(values: Floats, q: float) -> float | None:
    return float(np.quantile(values, q)) if len(values) else None
