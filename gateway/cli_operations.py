"""`sluice reload`, `restart` and `drain`: orders to a running gateway as a whole."""

import time
from typing import Annotated, Any

import typer

from gateway.cli_client import DEFAULT_URL, AdminClient, AdminUrl
from gateway.cli_output import Output, OutputOption, show
from gateway.errors import ExitCode, SluiceError, UnreachableError

Why = Annotated[str, typer.Option(help="Reason, for the audit trail.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen, change nothing.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait until the workers are replaced.")]
_POLL_S = 0.2


def reload(
    *,
    why: Why = "",
    dry_run: DryRun = False,
    wait: Wait = 60.0,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take in sluice.yaml, certificates, keys and tokens, without losing a request."""
    client = AdminClient(admin_url)
    before = {} if dry_run else _workers(client)
    done = client.post("/reload", why=why, dry_run=dry_run)
    if done["workers"] and not dry_run:
        _wait(client, before, wait)
    if output is not Output.TABLE:
        show(done, output)
        return
    changed = ", ".join(done["changed"]) or "no setting"
    parts = [name for name in ("workers", "controller") if done[name]]
    verb = "would start" if dry_run else "started"
    typer.echo(f"changed: {changed}; {' and '.join(parts) + f' {verb} anew' if parts else 'files are read again'}")


def restart(
    *,
    workers: Annotated[bool, typer.Option("--workers", help="Only the workers.")] = False,
    why: Why = "",
    dry_run: DryRun = False,
    wait: Wait = 60.0,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replace all processes by what is installed now, one after another, without refusing a connection."""
    client = AdminClient(admin_url)
    before = {} if dry_run else _workers(client)
    done = client.post("/restart", workers_only=workers, why=why, dry_run=dry_run)
    if not dry_run:
        _wait(client, before, wait)
    if output is not Output.TABLE:
        show(done, output)
    else:
        typer.echo("it would start" if dry_run else "all processes are new" if not workers else "all workers are new")


def drain(
    backend: Annotated[str, typer.Argument(metavar="URL", help="As in sluice.yaml, or as `get backends` shows it.")],
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Back into service.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even the last backend of a pool.")] = False,
    why: Why = "",
    dry_run: DryRun = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a backend out of service for maintenance: what it works on ends, nothing new begins."""
    client = AdminClient(admin_url)
    done = client.post("/drain", backend=backend, undo=undo, force=force, why=why, dry_run=dry_run)
    if output is not Output.TABLE:
        show(done, output)
    else:
        state = "in service" if undo else "drained"
        verb = "is already" if not done["changed"] else "would be" if dry_run else "is"
        typer.echo(f"{backend} {verb} {state} in pool {', '.join(done['pools'])}")
    if done["late"]:
        typer.echo(f"workers {done['late']} have not taken it over yet; see `sluice get workers`", err=True)
        raise typer.Exit(ExitCode.FAILED)


def _workers(client: AdminClient) -> dict[int, int]:
    rows: list[dict[str, Any]] = client.get("/workers")
    return {row["worker"]: row["pid"] for row in rows if row["connected"]}


def _wait(client: AdminClient, before: dict[int, int], seconds: float) -> None:
    """Waits until no slot has the process it had; the admin API may be away for a moment."""
    until = time.monotonic() + seconds
    while seconds:
        try:
            now = _workers(client)
        except UnreachableError:
            now = {}
        if now and not set(now.values()) & set(before.values()):
            return
        if time.monotonic() > until:
            raise SluiceError(f"the workers are not all replaced after {seconds:g} s; the gateway's log says why")
        time.sleep(_POLL_S)
