"""How the commands speak: rich on a terminal, JSON for programs, one line and an exit code for errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console

from loadtest.errors import LoadTestError

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)
for _console in (out, err):
    if not _console.is_terminal:
        _console.width = 160  # a pipe has no width, and a table cut at 80 columns helps nobody
_INTERRUPTED: Final = 130


class Format(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("--output", "-o", help="How to print the answer.")]


@contextmanager
def errors() -> Iterator[None]:
    """One clear message and the documented exit code instead of a traceback."""
    try:
        yield
    except LoadTestError as error:
        err.print(f"sluice loadtest: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        err.print("sluice loadtest: interrupted; nothing was stored")
        raise typer.Exit(_INTERRUPTED) from None


def print_json(value: Any) -> None:
    """To stdout, for programs."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
