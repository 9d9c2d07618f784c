"""How the commands speak: rich on a terminal, JSON for programs, one line and an exit code for errors."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
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
_FILE_OPTIONS: Final = {"--json", "--html", "--markdown", "--svg", "--folder", "--repository"}


class Format(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"


MarkdownOption = Annotated[Path | None, typer.Option("--markdown", help="Write the figures as a page here.")]
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


def write_text(path: Path, text: str) -> None:
    """Store a page, making its directory where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def typed() -> str:
    """The command as the user gave it, for pages that say how they were made; without where files were put."""
    words: list[str] = []
    skip = False
    for word in sys.argv[1:]:
        if skip or word in _FILE_OPTIONS:
            skip = not skip
            continue
        words.append(word)
    if words[:1] == ["loadtest"]:
        words = words[1:]
    return shlex.join(["sluice", "loadtest", *words])
