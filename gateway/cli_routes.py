"""`sluice apply` and `sluice get`: change and read what a running gateway serves."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from gateway.cli_client import DEFAULT_URL, AdminClient, AdminUrl
from gateway.cli_output import Output, OutputOption, show, show_diff
from gateway.configfile import load_routes, minimal
from gateway.core.route import Routes
from gateway.errors import ExitCode


class What(StrEnum):
    """What `get` can read."""

    ROUTES = "routes"
    WORKERS = "workers"
    BACKENDS = "backends"
    GENERATIONS = "generations"
    TABLE = "table"
    AUDIT = "audit"


_COLUMNS = {
    What.WORKERS: ("worker", "connected", "pid", "generation", "starts", "connections", "in_flight", "rss_bytes"),
    What.BACKENDS: ("pool", "url", "states", "in_flight", "requests", "failures", "ejections"),
    What.GENERATIONS: ("number", "current", "kind", "who", "why", "created"),
    What.AUDIT: ("id", "at", "who", "action", "generation", "detail"),
}


def apply(
    file: Annotated[Path, typer.Argument(help="The routes: routes.yaml.")],
    *,
    why: Annotated[str, typer.Option(help="Reason, for the history.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, change nothing.")] = False,
    verify: Annotated[bool, typer.Option(help="Check that each model is ready on its pool.")] = True,
    if_generation: Annotated[int | None, typer.Option(help="Refuse unless this generation is current.")] = None,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make the gateway serve the routes in a file, without losing a request."""
    routes = load_routes(file)
    done = AdminClient(admin_url).put(
        "/routes",
        msgspec.json.encode(routes),
        why=why,
        dry_run=dry_run,
        verify=verify,
        if_generation=if_generation,
    )
    show_outcome(done, output)


def get(
    what: Annotated[What, typer.Argument(help="What to read.")],
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read what a running gateway serves and how it is doing."""
    value = AdminClient(admin_url).get(f"/{what.value}")
    if what is What.ROUTES:
        if output is Output.YAML:
            # As a file that `apply` takes back.
            routes = msgspec.convert({"routes": value["routes"]}, Routes)
            show({"routes": [minimal(replace(route, epoch=0)) for route in routes.routes]}, output)
        else:
            show(value if output is Output.JSON else _variants(value), output)
    elif what is What.TABLE and output is Output.TABLE:
        show(_variants(value), output)
    else:
        show(value, output, _COLUMNS.get(what, ()))


def show_outcome(done: dict[str, Any], output: Output) -> None:
    """Prints what an apply or a rollback did; ends the command with FAILED when a worker is late."""
    if output is Output.TABLE:
        if done["diff"]:
            show_diff(done["diff"])
        typer.echo(_sentence(done))
    else:
        show(done, output)
    if done["late"]:
        typer.echo(f"workers {done['late']} have not taken it over yet; see `sluice get workers`", err=True)
        raise typer.Exit(ExitCode.FAILED)


def _sentence(done: dict[str, Any]) -> str:
    if not done["changed"]:
        return f"nothing to change: generation {done['generation']} serves these routes"
    if done["dry_run"]:
        return f"dry run: generation {done['generation']} would be replaced"
    return f"generation {done['generation']} is served by {len(done['applied'])} workers"


def _variants(value: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per variant, which is how people read a split."""
    return [
        {
            "route": route["name"],
            "variant": variant["name"],
            "weight": variant["weight"],
            "model": variant["model"],
            "version": variant["version"] or None,
            "pool": variant["pool"],
            "shadow_percent": next((s["sample"] for s in route["shadows"] if s["variant"] == variant["name"]), None),
        }
        for route in value["routes"]
        for variant in route["variants"]
    ]
