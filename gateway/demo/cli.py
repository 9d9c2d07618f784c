"""`sluice demo`: the whole path on this machine, from PyTorch to an answered request."""

import json
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway.demo import report
from gateway.demo.commands import Deadline
from gateway.demo.scene import Scene
from gateway.demo.stages import STAGES
from gateway.errors import ConfigError, ExitCode, ResourceError

_MARK = ".sluice-demo"
app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def demo(
    *,
    directory: Annotated[Path, typer.Option(help="Where everything is written.")] = Path(".sluice/demo"),
    requests: Annotated[int, typer.Option(min=100, max=1_000_000, help="Digits to send through the split.")] = 4000,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report there too.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave Triton and the gateway running.")] = False,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds after which it gives up.")] = 300.0,
) -> None:
    """Export real models, serve, split and shadow them, and measure what comes back.

    Exit codes: 0 all claims hold; 1 one does not, or a command failed; 3, 4, 5, 6 as in the other commands.
    """
    # SIGTERM unwinds like Ctrl-C does, so that nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True, soft_wrap=True)
    _prepare(directory)
    with ExitStack() as stack:
        scene = Scene(directory.absolute(), Deadline(time_limit), requests, keep, stack)
        seconds = _run(scene, console)
        if keep:
            stack.pop_all()
    results: dict[str, Any] = {
        "seconds": sum(seconds.values()),
        "stages": seconds,
        "urls": scene.urls,
        "running": scene.pids if keep else {},
        **scene.results,
    }
    found = report.as_plain(results, scene.checks)
    if json_file is not None:
        _write(json_file, found)
    report.show(found, Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=120))
    if keep:
        pids = " ".join(str(pid) for pid in reversed(scene.pids.values()))
        typer.echo(f"\nstill running; end it with: kill {pids}")
    else:
        typer.echo("\nall of it has been stopped; --keep leaves it running")
    if not found["ok"]:
        raise typer.Exit(int(ExitCode.FAILED))


def _prepare(directory: Path) -> None:
    """Everything starts afresh, in a directory that is new, empty, or left by an earlier demo."""
    mark = directory / _MARK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        found = list(directory.iterdir())
        if found and not mark.exists():
            raise ConfigError([f"--directory {directory} has other files in it; name an empty directory or a new one"])
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        mark.write_text("Written by `sluice demo`, which deletes this directory's content when it is run again.\n")
        for name in ("logs", "model_repository"):
            (directory / name).mkdir()
    except OSError as error:
        raise ResourceError(f"cannot write to {directory}: {error.strerror}") from None


def _run(scene: Scene, console: Console) -> dict[str, float]:
    """Run the stages with a line of progress for each; return how long each took."""
    seconds = {}
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for stage in STAGES:
            task = progress.add_task(stage.title, total=None)
            scene.progress = lambda done, total, task=task: progress.update(  # type: ignore[misc]
                task, completed=done, total=total
            )
            began = time.monotonic()
            stage.run(scene)
            seconds[stage.name] = time.monotonic() - began
            progress.update(task, completed=1, total=1)
            if not console.is_terminal:
                console.print(f"{stage.title}: {seconds[stage.name]:.1f} s", markup=False, highlight=False)
    return seconds


def _write(file: Path, found: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror}") from None
