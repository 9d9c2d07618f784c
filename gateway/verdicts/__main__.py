"""`python -m gateway.verdicts`: the simulation study behind the gates. Exit code 1 when a promise is broken."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.progress import Progress

from gateway.core.rollout_policy import Clusters, RolloutPolicy
from gateway.verdicts.allgates import CANDIDATES, OLD, outcomes
from gateway.verdicts.report import Result, page
from gateway.verdicts.study import Walk, aborts, walk
from gateway.verdicts.traffic import BEYOND, NULLS, REGRESSIONS, Scenario, Schedule

app = typer.Typer(add_completion=False)

WALKS = (
    ("no errors at all on either version", Scenario(name="", base=0.0), 1.0),
    ("equally good, 0.05 % errors", Scenario(name="", base=0.0005), 1.0),
    ("equally good, 1 % errors", Scenario(name="", base=0.01), 1.0),
    ("0.1 % to 1 %", Scenario(name="", base=0.001, ratio=10), 1.0),
    ("1 % to 2 %", Scenario(name="", base=0.01, ratio=2), 1.0),
    ("no request reaches the candidate", Scenario(name="", base=0.0005), 0.0),
)


def broken_promises(nulls: Sequence[Result], walks: Sequence[tuple[str, Walk]], alpha: float) -> list[str]:
    """What the results contradict: false aborts surely above alpha, or a promotion without data."""
    return [
        f"{result.judge}, {scenario.name}: {result.rate:.2%} false aborts, alpha is {alpha:.0%}"
        for scenario, results in nulls
        if scenario.by_key or scenario.kind != "keys"
        for result in results
        if result.judge.startswith("Sluice") and result.lower > alpha
    ] + [f"{name}: {w.promoted} promoted" for name, w in walks if name.startswith("no request") and w.promoted]


@app.command()
def main(
    rollouts: Annotated[int, typer.Option(min=10, help="Simulated rollouts per setting.")] = 10_000,
    walks: Annotated[int, typer.Option(min=10, help="Whole rollouts per setting.")] = 1000,
    all_gates: Annotated[int, typer.Option(min=0, help="Rollouts with every gate on; a quarter per regression.")] = 200,
    horizon_s: Annotated[int, typer.Option(min=10, help="Longest whole rollout.")] = 3600,
    seed: Annotated[int, typer.Option(help="Seed of the traces.")] = 1,
    step_s: Annotated[int, typer.Option(min=10, help="Seconds per step.")] = 150,
    clusters: Annotated[str, typer.Option(help="How shared causes are counted: learn, block or none.")] = "learn",
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes to simulate in; as many as cores when left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the page here instead of to standard output.")] = None,
) -> None:
    """Simulates rollouts and reports false aborts, detection and promotions, beside two other judges."""
    if clusters not in get_args(Clusters):
        raise typer.BadParameter(f"{clusters!r} is none of {', '.join(get_args(Clusters))}", param_hint="--clusters")
    policy = RolloutPolicy(clusters=cast(Clusters, clusters))
    schedule, started = Schedule(step_s=step_s), time.monotonic()
    console = Console(stderr=True)
    nulls: list[Result] = []
    beyond: list[Result] = []
    regressions: list[Result] = []
    workers = processes or len(os.sched_getaffinity(0))
    # Not forked: the progress bar has a thread.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"))
    with pool, Progress(console=console) as progress:
        task = progress.add_task("", total=(len(NULLS) + len(BEYOND) + len(REGRESSIONS)) * rollouts)
        for scenarios, results in ((NULLS, nulls), (BEYOND, beyond), (REGRESSIONS, regressions)):
            for scenario in scenarios:
                progress.update(task, description=scenario.name)
                found = aborts(
                    scenario,
                    schedule,
                    rollouts=rollouts,
                    seed=seed,
                    policy=policy,
                    told=partial(progress.advance, task),
                    over=pool.map,
                )
                results.append((scenario, found))
        whole = partial(walk, policy=policy, rate=schedule.rate, rollouts=walks, seed=seed, horizon_s=horizon_s)
        walking = [pool.submit(whole, scenario, candidate_traffic=traffic) for _, scenario, traffic in WALKS]
        sizes = [all_gates if version == OLD else all_gates // 4 for _, version in CANDIDATES]
        gated = [
            pool.submit(outcomes, name, version, rollouts=size, seed=seed)
            for (name, version), size in zip(CANDIDATES, sizes, strict=True)
            if size
        ]
        running: list[Future[Any]] = [*walking, *gated]
        task = progress.add_task("whole rollouts", total=len(running))
        for future in as_completed(running):
            future.result()
            progress.advance(task)
    walked = [(name, done.result()) for (name, _, _), done in zip(WALKS, walking, strict=True)]
    command = (
        f"python -m gateway.verdicts --rollouts {rollouts} --walks {walks} --step-s {step_s} --all-gates {all_gates} "
        f"--clusters {clusters}"
    )
    text = page(
        nulls,
        beyond,
        regressions,
        walked,
        [done.result() for done in gated],
        schedule=schedule,
        policy=policy,
        rollouts=rollouts,
        seed=seed,
        command=command,
        seconds=time.monotonic() - started,
        processes=workers,
    )
    if out is None:
        typer.echo(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        console.print(f"written to {out}")
    problems = broken_promises(nulls, walked, policy.alpha)
    for problem in problems:
        console.print(f"broken promise: {problem}", style="red")
    if problems:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
