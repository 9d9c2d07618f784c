"""How the commands speak: rich on a terminal, JSON for programs, one line for errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.status import Status

from export.errors import EXIT_INTERRUPTED, EXIT_USAGE, ExportError, Step, StepError
from export.state import StepReport
from export.stepping import Progress

out = Console()
err = Console(stderr=True)
T = TypeVar("T")
_MARKS = {"ok": "[green]ok[/]", "skipped": "[dim]skipped[/]", "resumed": "[cyan]resumed[/]", "failed": "[red]failed[/]"}


class Format(str, Enum):  # noqa: UP042  (typer shows str enums as choices)
    """What `-o` takes."""

    table = "table"
    json = "json"


RunningTriton = Annotated[
    str | None,
    typer.Option(
        "--triton",
        metavar="URL[,grpc_port=N]",
        help="Running Triton that serves this repository: load there and verify.",
    ),
]


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """One clear line and the documented exit code instead of a traceback."""
    try:
        yield
    except StepError as error:
        err.print(f"[red]refused at {error.step.label}[/]: ", end="")
        err.print(str(error), markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from None
    except ExportError as error:
        _say(str(error))
        raise typer.Exit(error.exit_code) from None
    except ValidationError as error:
        first = error.errors()[0]
        _say(f"--{'.'.join(str(part) for part in first['loc']).replace('_', '-')}: {first['msg']}")
        raise typer.Exit(EXIT_USAGE) from None
    except OSError as error:
        _say(f"{error.filename or 'the file system'}: {error.strerror or error}")
        raise typer.Exit(ExportError.exit_code) from None
    except KeyboardInterrupt:
        _say("interrupted; nothing was published")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def with_progress(call: Callable[[Progress], T]) -> T:
    """Call with a progress that shows the step under way and prints a line for each one that has ended."""
    with Status("", console=err) as status:

        def progress(step: Step, report: StepReport | None) -> None:
            if report is None:
                status.update(f"{step.label} ...")
            else:
                out.print(_line(report))

        return call(progress)


def _line(report: StepReport) -> str:
    details = report.message or ", ".join(f"{key} {value}" for key, value in report.output.items())
    details = details.replace("[", r"\[")
    return f"  {report.step:<12} {_MARKS[report.status]:<18} {report.seconds:7.2f} s  [dim]{details}[/]"


def print_json(value: Any) -> None:
    """To stdout, for programs."""
    typer.echo(json.dumps(value, indent=1, default=str))


def _say(message: str) -> None:
    err.print("[red]error[/]: ", end="")
    err.print(message, markup=False, highlight=False)
