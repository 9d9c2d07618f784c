"""`resilience`: what overload, slow clients, broken shadows, dying backends and restarts do to the gateway."""

import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from loadtest import machine, objectives, results, servers
from loadtest.cli_output import Format, OutputOption, err, errors, out, print_json
from loadtest.errors import UsageError
from loadtest.resilience import figures, kill, loads, markdown, overload, replica, restarts, shadow, slow
from loadtest.resilience.figures import Figure, Place, Resilience, Settings


class Name(StrEnum):
    """The figures, in the order in which `--all` takes them."""

    OVERLOAD = "overload"
    SLOW_CLIENTS = "slow-clients"
    SHADOW = "shadow"
    REPLICA = "replica"
    KILL = "kill"
    LOADS = "loads"
    RESTARTS = "restarts"
    IDLE_CLIENTS = "idle-clients"


_FIGURES: Final[dict[Name, Callable[[Settings, Place], Figure]]] = {
    Name.OVERLOAD: overload.overload,
    Name.SLOW_CLIENTS: slow.slow_clients,
    Name.SHADOW: shadow.shadow,
    Name.REPLICA: replica.replica,
    Name.KILL: kill.kill,
    Name.LOADS: loads.loads,
    Name.RESTARTS: restarts.restarts,
    Name.IDLE_CLIENTS: slow.idle_clients,
}


def resilience(
    *,
    figure: Annotated[list[Name] | None, typer.Argument(help="Which; may be several.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, in about fifteen minutes.")] = False,
    seconds: Annotated[float, typer.Option(min=0.2, max=60, help="Length of one visit of a load.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds where arms are compared.")] = 8,
    slow_clients: Annotated[int, typer.Option(min=1, max=100_000, help="Slow clients at once.")] = 5000,
    idle_clients: Annotated[int, typer.Option(min=1, max=200_000, help="Idle clients at once.")] = 20_000,
    restart: Annotated[int, typer.Option(min=3, max=1000, help="Restarts of each kind under load.")] = 20,
    kills: Annotated[int, typer.Option(min=1, max=100, help="Tritons killed under load.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Store the result here.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the page here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, run nothing.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure what load and faults do to a gateway that is started for it, on this machine alone.

    Exit codes: 0 all targets hold; 8 one is missed; 9 one could not be decided; 1 something did not run; 2 no figure
    was named; 4 a program is missing.
    """
    with errors():
        names = list(Name) if every else list(dict.fromkeys(figure or ()))
        if not names:
            raise UsageError(f"name a figure ({', '.join(Name)}) or use --all")
        servers.sluice()
        if dry_run:
            out.print(f"figures: {', '.join(names)}")
            return
        settings = Settings(
            seconds=seconds, rounds=rounds, slow_clients=slow_clients, idle_clients=idle_clients, restarts=restart,
            kills=kills,
        )  # fmt: skip
        # Told to end it still ends what it has started.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        taken = [_take(name, settings) for name in names]
        result = Resilience(
            format=figures.FORMAT,
            taken_at=datetime.now(UTC).date().isoformat(),
            settings=settings,
            machine=machine.describe("sluice", "uvloop", "httptools"),
            figures=taken,
            verdict=objectives.worst(f.verdict for f in taken),
        )
        page = markdown.render(result, _command(names, every, settings))
        if json_file:
            results.write(json_file, result)
        if markdown_file:
            markdown_file.parent.mkdir(parents=True, exist_ok=True)
            markdown_file.write_text(page, encoding="utf-8")
        if output is Format.JSON:
            print_json(result)
        else:
            out.print(page, markup=False, soft_wrap=True)
    raise typer.Exit(objectives.EXIT_CODES[result.verdict])


def _take(name: Name, settings: Settings) -> Figure:
    begun = time.monotonic()

    def say(what: str) -> None:
        err.print(f"{time.monotonic() - begun:6.1f} s  {name}: {what}", markup=False)

    with tempfile.TemporaryDirectory(prefix="sluice-resilience-") as folder, ExitStack() as stack:
        found = _FIGURES[name](settings, Place(Path(folder), stack, say))
    return msgspec.structs.replace(found, took_s=time.monotonic() - begun)


def _command(names: Sequence[Name], every: bool, settings: Settings) -> str:
    words = ["sluice loadtest resilience", *(["--all"] if every else names)]
    for option, value, default in zip(
        ("--seconds", "--rounds", "--slow-clients", "--idle-clients", "--restart", "--kills"),
        msgspec.structs.astuple(settings), msgspec.structs.astuple(Settings()), strict=True,
    ):  # fmt: skip
        if value != default:
            words.append(f"{option} {value:g}")
    return " ".join(words)
