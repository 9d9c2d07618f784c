"""`sluice shadow`: what copies answered differently."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from gateway.cli_client import DEFAULT_URL, AdminClient, AdminUrl
from gateway.cli_output import Output, OutputOption, show

app = typer.Typer(no_args_is_help=True, help="Look at the copies that shadows received.")


@app.callback()
def shadow() -> None:
    """Look at the copies that shadows received."""


@app.command()
def diff(
    route: Annotated[str, typer.Argument(help="Name of the route.")],
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many, newest first.")] = 20,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show samples of answers that differed from the original: which tensor, where, how far."""
    rows = AdminClient(admin_url).get(f"/routes/{route}/diffs", limit=limit)
    if output is Output.TABLE:
        if not rows:
            typer.echo("no copy has answered differently")
            return
        for row in rows:
            row["at"] = datetime.fromtimestamp(row["at"], UTC).strftime("%H:%M:%S")
            row["copy"] += " (noise)" if row["noise"] else ""
    columns = ("at", "request_id", "original", "copy", "reason", "index", "original_value", "copy_value", "deviation")
    show(rows, output, columns)
