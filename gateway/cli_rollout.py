"""`sluice rollout`: start a version's way to all traffic, watch it, and have the last word."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.live import Live

from gateway.cli_client import DEFAULT_URL, AdminClient, AdminUrl
from gateway.cli_output import Output, OutputOption, console, show
from gateway.cli_plan import plan_command
from gateway.cli_rollout_view import view
from gateway.configfile import load_policy
from gateway.errors import ExitCode, UnreachableError

_FAILED = frozenset({"aborted", "rolled_back"})

app = typer.Typer(
    pretty_exceptions_enable=False, no_args_is_help=True, help="Move a route to a new version on evidence, and back."
)
app.command("plan")(plan_command)
RouteArgument = Annotated[str, typer.Argument(help="Name of the route.")]
WhyOption = Annotated[str, typer.Option(help="Reason, for the history.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would happen, change nothing.")]


@app.command()
def start(
    route: RouteArgument,
    candidate: Annotated[str, typer.Option(help="Variant to roll out; the only other one when left out.")] = "",
    policy: Annotated[Path | None, typer.Option(help="Policy file; the route's own when left out.")] = None,
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show progress until it is over.")] = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a rollout.

    With --dry-run: the stages it would go through, and what its gates say to the evidence of the route's running or
    last rollout.
    """
    body = msgspec.json.encode(load_policy(policy)) if policy is not None else None
    client = AdminClient(admin_url)
    found = client.post(f"/routes/{route}/rollout", body, candidate=candidate, why=why, dry_run=dry_run)
    if watch and not dry_run:
        _watch(client, found["id"], output)
        return
    _print(found, output)


@app.command()
def status(
    route: Annotated[str, typer.Argument(help="Route or rollout; by default all that run, and the latest.")] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it until it is over.")] = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show where a rollout stands, what each gate says and why, and what comes next."""
    client = AdminClient(admin_url)
    if not route:
        rows = client.get("/rollouts", limit=20)
        show(rows, output, ("id", "strategy", "phase", "stage", "weight", "stable", "candidate", "reason"))
    elif watch:
        _watch(client, route, output)
    else:
        _print(client.get(f"/rollouts/{route}"), output)


@app.command()
def pause(
    route: RouteArgument,
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hold the present shares until `resume`."""
    _command("pause", route, admin_url, output, why=why, dry_run=dry_run)


@app.command()
def resume(
    route: RouteArgument,
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Go on after a pause or a freeze."""
    _command("resume", route, admin_url, output, why=why, dry_run=dry_run)


@app.command()
def promote(
    route: RouteArgument,
    full: Annotated[bool, typer.Option("--full", help="All traffic at once, ahead of the evidence.")] = False,
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Approve the step that waits for it."""
    _command("promote", route, admin_url, output, why=why, dry_run=dry_run, full=full)


@app.command()
def abort(
    route: RouteArgument,
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give all traffic back to the stable version, at once."""
    _command("abort", route, admin_url, output, why=why, dry_run=dry_run)


@app.command()
def history(
    route: Annotated[str, typer.Argument(help="Route or rollout.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 100,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show every decision of a rollout with its reason."""
    rows = AdminClient(admin_url).get(f"/rollouts/{route}/decisions", limit=limit)
    if output is Output.TABLE:
        for row in rows:
            row["at"] = datetime.fromtimestamp(row["at"], UTC).strftime("%H:%M:%S.%f")[:-3]
    show(rows, output, ("seq", "at", "event", "before", "after", "stage", "reason"))


def _command(verb: str, route: str, admin_url: str, output: Output, **options: Any) -> None:
    _print(AdminClient(admin_url).post(f"/routes/{route}/rollout/{verb}", **options), output)


def _print(found: dict[str, Any], output: Output) -> None:
    if output is Output.TABLE:
        console().print(view(found, time.time()))
    else:
        show(found, output)


def _watch(client: AdminClient, name: str, output: Output) -> None:
    """Shows a rollout until it is over; ends with REJECTED when it was taken back."""
    found = client.get(f"/rollouts/{name}")
    name = found["id"]
    with Live(
        view(found, time.time()), console=console(), refresh_per_second=4, transient=output is not Output.TABLE
    ) as live:
        while not found["final"]:
            time.sleep(0.5)
            try:
                found = client.get(f"/rollouts/{name}")
            except UnreachableError:
                continue  # a controller that restarts is back in a moment
            live.update(view(found, time.time()))
    if output is not Output.TABLE:
        show(found, output)
    if found["phase"] in _FAILED:
        raise typer.Exit(ExitCode.REJECTED)
