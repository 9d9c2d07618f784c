"""The `sluice` command. Its parts are loaded when they are called, so that `sluice --help` needs none of them."""

import importlib
import importlib.metadata
import sys
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command as build_command

from gateway import cli_operations, cli_rollback, cli_routes, cli_serve, cli_shadow
from gateway.cli_output import Output, OutputOption, show
from gateway.errors import ResourceError, SluiceError

_GROUP = "sluice.commands"


@dataclass(frozen=True, slots=True)
class _Part:
    """A sub-command that lives elsewhere: its one-line help, the extra that brings it, its module if it is ours."""

    help: str
    extra: str
    target: str = ""


PARTS = {
    "rollout": _Part("Move a route to a new version on evidence, and back.", "", "gateway.cli_rollout:app"),
    "demo": _Part("Show the whole path here: export, serve, split, measure.", "demo", "gateway.demo.cli:app"),
    "triton": _Part("Run a real Triton on this machine without a container.", "demo", "gateway.localtriton.cli:triton"),
    "models": _Part("See, load and unload models over the fleet.", "", "gateway.cli_models:models"),
    "keys": _Part("Make, list and revoke API keys of the data plane.", "", "gateway.cli_keys:keys"),
    "tokens": _Part("Make, list and revoke tokens of the admin API.", "", "gateway.cli_keys:tokens"),
    "export": _Part("Turn PyTorch models into a Triton repository.", "export"),
    "loadtest": _Part("Load a gateway and judge it by objectives.", "loadtest"),
}


class _Group(TyperGroup):
    """Lists the parts from the table above and imports one only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *PARTS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        part = PARTS.get(cmd_name)
        if part is None:
            return super().get_command(ctx, cmd_name)
        return TyperGroup(name=cmd_name, help=part.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in PARTS:
            return args[0], load_part(args[0]), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A GPU inference gateway in front of NVIDIA Triton.",
)
app.command()(cli_serve.serve)
app.command()(cli_routes.apply)
app.command()(cli_routes.get)
app.command()(cli_operations.reload)
app.command()(cli_operations.restart)
app.command()(cli_operations.drain)
app.command()(cli_rollback.history)
app.command()(cli_rollback.rollback)
app.add_typer(cli_shadow.app, name="shadow")


@app.command()
def version(output: OutputOption = Output.TABLE) -> None:
    """Show the version."""
    number = importlib.metadata.version("sluice")
    if output is Output.TABLE:
        typer.echo(f"sluice {number}")
    else:
        show({"version": number}, output)


def command_tree() -> Any:
    """The commands that live here, as a tree that can be looked at."""
    return build_command(app)


def load_part(name: str) -> Any:
    """Imports a part and returns its command; raises ResourceError when its extra is missing."""
    part = PARTS[name]
    missing = f"`sluice {name}` needs the extra {part.extra!r}: pip install 'sluice[{part.extra}]'"
    target = part.target
    if not target:
        found = importlib.metadata.entry_points(group=_GROUP, name=name)
        if not found:
            raise ResourceError(missing)
        target = next(iter(found)).value
    module, _, attribute = target.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ResourceError(f"{missing} (no module named {error.name!r})") from error
    if not isinstance(loaded, typer.Typer):
        command = typer.Typer(pretty_exceptions_enable=False)
        command.command(name)(loaded)
        loaded = command
    return build_command(loaded)


def main() -> None:
    """Entry point: a SluiceError is one message on standard error and its exit code."""
    try:
        app()
    except SluiceError as error:
        print(f"sluice: {error}", file=sys.stderr)
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    main()
