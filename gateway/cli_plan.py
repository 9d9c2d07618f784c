"""`sluice rollout plan`: what a policy will take, before anything is started. Needs no running gateway."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.cli_output import Output, OutputOption, console, show
from gateway.configfile import load_policy, load_routes
from gateway.core.rollout_policy import RolloutPolicy
from gateway.errors import RejectedError
from gateway.planning import Plan, plan


def plan_command(
    rate: Annotated[float, typer.Option(help="Requests per second of the route.")],
    worse: Annotated[float, typer.Option(help="Error rate of the regression to catch, e.g. 0.01.")],
    *,
    base: Annotated[float, typer.Option(help="Error rate of the old version.")] = 0.0005,
    policy: Annotated[Path | None, typer.Option(help="Policy file; the default policy when left out.")] = None,
    routes: Annotated[Path | None, typer.Option(help="Take the policy of a route in this routes.yaml.")] = None,
    route: Annotated[str, typer.Option(help="Which route of that file.")] = "",
    rollouts: Annotated[int, typer.Option(min=20, max=10_000, help="Simulated rollouts per figure.")] = 300,
    horizon_s: Annotated[int, typer.Option(min=60, max=86_400, help="Longest time simulated.")] = 3600,
    seed: Annotated[int, typer.Option(help="Makes the figures repeatable.")] = 1,
    output: OutputOption = Output.TABLE,
) -> None:
    """Simulate a policy: requests and time that each step needs to pass, and to catch a regression."""
    chosen = _policy(policy, routes, route)
    with Console(stderr=True).status("simulating") as status:
        found = plan(
            chosen,
            rate=rate,
            base=base,
            worse=worse,
            rollouts=rollouts,
            seed=seed,
            horizon_s=horizon_s,
            told=lambda what: status.update(f"simulating {what}"),
        )
    if output is Output.TABLE:
        _show(found)
    else:
        show(msgspec.to_builtins(found), output)


def _policy(policy: Path | None, routes: Path | None, route: str) -> RolloutPolicy:
    if policy is not None:
        return load_policy(policy)
    if routes is None:
        return RolloutPolicy()
    known = {found.name: found for found in load_routes(routes).routes}
    if route not in known:
        raise RejectedError(f"{routes} has no route {route!r} (it has: {', '.join(sorted(known)) or 'none'})")
    return known[route].rollout or RolloutPolicy()


def _show(found: Plan) -> None:
    table = Table(title=f"{found.rate:g} requests/s, errors {100 * found.base:g} % -> {100 * found.worse:g} %")
    passing, catching = ("requests to pass", "s", "90 % by"), ("caught", "requests to catch", "s", "90 % by")
    for column in ("step", "requests/s", *passing, *catching):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step in found.steps:
        table.add_row(
            step.name,
            f"{step.requests_per_s:g}",
            _requests(step.pass_requests),
            _seconds(step.pass_s),
            _seconds(step.pass_p90_s),
            f"{100 * step.caught:.0f} %",
            _requests(step.catch_requests),
            _seconds(step.catch_s),
            _seconds(step.catch_p90_s),
        )
    out = console()
    out.print(table)
    healthy = "-" if found.promote_s is None else f"{found.promote_s:.0f} s"
    out.print(
        f"A healthy candidate is promoted after {healthy} (median; {100 * found.promoted:.1f} % within "
        f"{found.horizon_s} s, {100 * found.false_aborts:.1f} % aborted). The regression is aborted in "
        f"{100 * found.caught:.1f} % of the rollouts and promoted in {100 * found.slipped:.1f} %. "
        f"{found.rollouts} simulated rollouts each."
    )


def _requests(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"
