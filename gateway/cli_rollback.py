"""`sluice history` and `sluice rollback`: what was served when, and the way back."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from gateway.cli_client import DEFAULT_URL, AdminClient, AdminUrl
from gateway.cli_output import Output, OutputOption, show
from gateway.cli_routes import show_outcome


def history(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 20,
    before: Annotated[int | None, typer.Option(help="Only generations below this one.")] = None,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the generations: who changed what, when and why."""
    rows = AdminClient(admin_url).get("/generations", limit=limit, before=before)
    if output is Output.TABLE:
        for row in rows:
            row["created"] = datetime.fromtimestamp(row["created"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    show(rows, output, ("number", "current", "created", "kind", "who", "why"))


def rollback(
    generation: Annotated[int | None, typer.Argument(help="The last different one when left out.")] = None,
    route: Annotated[
        str, typer.Option(help="Take back this route's rollout instead: its old version is loaded and returns at once.")
    ] = "",
    why: Annotated[str, typer.Option(help="Reason, for the history.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, change nothing.")] = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Serve the routes of an earlier generation again, or take back one route's rollout."""
    if route:
        path = f"/routes/{route}/rollout/rollback"
        found = AdminClient(admin_url).post(path, why=why, dry_run=dry_run)
        show(found, output, ("id", "phase", "stable", "candidate", "reason"))
        return
    done = AdminClient(admin_url).post("/rollback", to=generation, why=why, dry_run=dry_run)
    show_outcome(done, output)
