"""One load test from scenario to verdict: check the target, drive it, summarise, judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import numpy as np

from loadtest import locust_process, machine, objectives, results, selector, summary, triton_stats
from loadtest.batch_watch import BatchWatch, period_s
from loadtest.compare import compare
from loadtest.driver.messages import Outcome, Progress
from loadtest.errors import UnreachableError
from loadtest.locust_process import Workers
from loadtest.plan import Arm, Plan, make_plan
from loadtest.scenario import Scenario

SATURATED = 0.9
_PACKAGES = ("sluice", "locust", "geventhttpclient", "gevent", "tritonclient")


@dataclass(frozen=True, slots=True)
class Options:
    """How to run, apart from what: arms, generators, gateways behind the host, and where to read statistics."""

    arms: Sequence[Arm]
    workers: Workers = field(default_factory=Workers)
    instances: int = 1
    arm_slice_s: float = 2.0
    stats_url: str | None = None


def execute(
    scenario: Scenario, options: Options, on_progress: Callable[[Progress], None] = lambda _: None
) -> results.Result:
    """Run a scenario.

    Raises:
        UnreachableError: an arm does not serve the models.
        UsageError: the arms cannot take turns in a run of this length.
        BrokenRunError: the load could not be produced.
    """
    models = sorted({r.model for r in scenario.requests})
    for arm in options.arms:
        for model in models:
            if problem := triton_stats.not_ready(arm.url, model):
                raise UnreachableError(problem)
    plan = make_plan(scenario, options.arms, arm_slice_s=options.arm_slice_s)
    notes: list[str] = []
    stats_url = options.stats_url or options.arms[0].url
    watch = BatchWatch(lambda: triton_stats.snapshot(stats_url, models), period_s(plan.curve.duration_s))
    with watch:
        outcome = locust_process.run(plan, options.workers, on_progress)
    batches = watch.found(started_at=outcome.started_at)
    if watch.problem:
        notes.append(watch.problem)
    return assemble(scenario, options, plan, outcome, batches=batches, notes=notes)


def assemble(
    scenario: Scenario,
    options: Options,
    plan: Plan,
    outcome: Outcome,
    *,
    batches: results.BatchSizes | None,
    notes: list[str],
) -> results.Result:
    """Summarise and judge what a run produced."""
    slicing = plan.slicing
    counted = {arm.name: slicing.measured(i, scenario.warmup_s) for i, arm in enumerate(plan.arms)}
    seconds = {name: sum(e - s for s, e in map(slicing.span, slices)) for name, slices in counted.items()}
    first = min(slices[0] for slices in counted.values())
    measured = [c for c in outcome.cells if c.slice >= first]
    offered = None
    if plan.arrivals == "open":
        offered = {name: _offered(plan, slices) / seconds[name] for name, slices in counted.items()}
    if outcome.missing:
        notes.append(f"{outcome.missing} load generator(s) never sent their last report: the figures are incomplete")
    if max(outcome.cpu_shares, default=0.0) > SATURATED:
        notes.append("a load generator used its whole CPU: it may be the limit, not the server; add --processes")
    judged = [
        _judge(o, measured, seconds, offered=offered, first_arm=plan.arms[0].name, instances=options.instances)
        for o in scenario.objectives
    ]
    verdict = objectives.worst(j.verdict for j in judged)
    result = results.Result(
        format=results.FORMAT,
        scenario=scenario.model_dump(mode="json"),
        arms=plan.arms,
        started_at=datetime.fromtimestamp(outcome.started_at, UTC).isoformat(timespec="seconds"),
        duration_s=plan.curve.duration_s,
        warmup_s=slicing.span(first)[0],
        slice_s=plan.slice_s,
        offered_per_s=offered,
        instances=options.instances,
        machine=machine.describe(*_PACKAGES),
        generator=results.GeneratorFacts(
            processes=options.workers.count, cpu_shares=outcome.cpu_shares, missing=outcome.missing
        ),
        groups=_groups(measured, seconds),
        cells=outcome.cells,
        batch_sizes=batches,
        comparison=None,
        objectives=judged,
        verdict="error" if outcome.missing else verdict,
        notes=notes,
    )
    if len(plan.arms) == 2:
        a, b = (results.side(result, f"arm={arm.name}", arm.name) for arm in plan.arms)
        return msgspec.structs.replace(result, comparison=compare(a, b, paired=True))
    return result


def _judge(
    objective: objectives.Objective,
    cells: Sequence[summary.Cell],
    seconds: dict[str, float],
    *,
    offered: dict[str, float] | None,
    first_arm: str,
    instances: int,
) -> objectives.Judgement:
    """An objective that names no arm is about the first one, the server under test."""
    where = objective.where
    conditions = selector.parse(where)
    arm = conditions.get("arm", first_arm)
    if "arm" not in conditions:
        where = ",".join(filter(None, [f"arm={arm}", where]))
    group = summary.group(cells, where=where, measured_s=seconds.get(arm, 1.0))
    return objectives.judge(
        objective, group, instances=instances, offered_per_s=offered.get(arm) if offered is not None else None
    )


def _groups(cells: Sequence[summary.Cell], seconds: dict[str, float]) -> list[summary.Group]:
    """Each arm as a whole, then by request and by variant where there are several."""
    selectors: list[tuple[str, str]] = []
    for arm in seconds:
        of_arm = summary.select(cells, f"arm={arm}")
        selectors.append((arm, f"arm={arm}"))
        for key in ("request", "variant"):
            values = summary.labels(of_arm, key)
            if len(values) > 1 or (key == "variant" and values):
                selectors += [(arm, f"arm={arm},{key}={value}") for value in values]
    found = (summary.group(cells, where=where, measured_s=seconds[arm]) for arm, where in selectors)
    return [g for g in found if g is not None]


def _offered(plan: Plan, slices: Sequence[int]) -> float:
    edges = np.array([plan.slicing.span(i) for i in slices], dtype=float)
    return float((plan.curve.cumulative(edges[:, 1]) - plan.curve.cumulative(edges[:, 0])).sum())
