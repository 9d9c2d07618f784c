"""`sluice models`: what the fleet has loaded, and loading or unloading by hand."""

from typing import Annotated

import typer

from gateway.cli_client import DEFAULT_URL, AdminClient, AdminUrl
from gateway.cli_output import Output, OutputOption, show

models = typer.Typer(no_args_is_help=True, help="See, load and unload models over the fleet.")
ModelArgument = Annotated[str, typer.Argument(help="Name of the model in Triton.")]
VersionOption = Annotated[str, typer.Option(help="One version; left out: the model as its version policy says.")]
PoolOption = Annotated[str, typer.Option(help="Pool whose backends are meant.")]
WhyOption = Annotated[str, typer.Option(help="Reason, for the audit trail.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would happen, change nothing.")]


@models.command("list")
def show_models(admin_url: AdminUrl = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """Show every model on every backend."""
    rows = AdminClient(admin_url).get("/models")
    show(rows, output, ("pool", "backend", "model", "version", "state", "reason"))


@models.command()
def load(
    model: ModelArgument,
    version: VersionOption = "",
    pool: PoolOption = "default",
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Load a model, or one version of it, on every backend of a pool."""
    client = AdminClient(admin_url)
    done = client.post(f"/models/{model}/load", version=version, pool=pool, why=why, dry_run=dry_run)
    show(done, output, ("pool", "model", "version", "dry_run", "detail"))


@models.command()
def unload(
    model: ModelArgument,
    version: VersionOption = "",
    pool: PoolOption = "default",
    force: Annotated[bool, typer.Option("--force", help="Even if a route needs it.")] = False,
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    admin_url: AdminUrl = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Unload a model, or one version of it, unless a route needs it."""
    client = AdminClient(admin_url)
    done = client.post(f"/models/{model}/unload", version=version, pool=pool, why=why, dry_run=dry_run, force=force)
    show(done, output, ("pool", "model", "version", "dry_run", "detail"))
