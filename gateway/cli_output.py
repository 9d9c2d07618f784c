"""How commands print what they read: a table for people, JSON or YAML for programs."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table


class Output(StrEnum):
    """Formats of every reading command."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the answer.")]


def show(value: Any, output: Output, columns: Sequence[str] = ()) -> None:
    """Prints plain data; `columns` chooses and orders the keys of a table's rows."""
    if output is Output.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    elif output is Output.YAML:
        typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        rows = value if isinstance(value, list) else [value]
        show_table(rows, columns or (tuple(rows[0]) if rows else ()))


def show_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Prints rows as a table that a pipe does not cut off."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper().replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console().print(table)


def show_diff(diff: str) -> None:
    """Prints a unified diff, coloured on a terminal."""
    terminal = console()
    if terminal.is_terminal:
        terminal.print(Syntax(diff, "diff", background_color="default"))
    else:
        typer.echo(diff, nl=False)


def console() -> Console:
    """Standard output; wide where it is no terminal, so that nothing is cut off."""
    found = Console(highlight=False)
    if not found.is_terminal:
        found.width = 200
    return found


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case dict():
            return ", ".join(f"{key}: {_cell(item)}" for key, item in value.items()) or "-"
        case list():
            return ", ".join(_cell(item) for item in value) or "-"
    return str(value)
