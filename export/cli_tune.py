"""`sluice export tune`: configurations against a live Triton, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from export.cli_output import Format, errors, out, print_json


def tune(
    name: Annotated[str, typer.Argument(help="The model, loaded in that Triton.")],
    *,
    triton: Annotated[str, typer.Option(help="URL of a Triton in explicit mode that nobody else depends on.")],
    version: Annotated[int, typer.Option(help="The version to drive.")] = 1,
    p99_ms: Annotated[float, typer.Option(help="Latency bound: the winner's p99 is not above it.")] = 100.0,
    delay_us: Annotated[list[int] | None, typer.Option(help="Queue delay to try; repeatable.")] = None,
    preferred: Annotated[list[int] | None, typer.Option(help="Preferred batch size to try; repeatable.")] = None,
    instances: Annotated[list[int] | None, typer.Option(help="Instance count to try; repeatable.")] = None,
    max_batch: Annotated[list[int] | None, typer.Option(help="Largest batch to try; repeatable.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=512, help="Requests in flight.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long each measurement lasts.")] = 3.0,
    pairs: Annotated[
        int, typer.Option(min=2, max=50, help="How often the best is measured in turns with the present one.")
    ] = 5,
    result_dir: Annotated[
        Path, typer.Option("--out", help="Where result.json, pareto.png and overlay.pbtxt go.")
    ] = Path("tune"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be tried.")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="How to print the result.")] = Format.table,
) -> None:
    """Sweep, keep the Pareto front, and choose a configuration that certainly beats the present one, or none."""
    from export.tune import sweep  # noqa: PLC0415

    with errors():
        grid = sweep.Grid(
            delays_us=tuple(delay_us or (0, 500, 2000)),
            preferred=tuple(preferred or ()),
            instances=tuple(instances or (1, 2)),
            max_batches=tuple(max_batch or ()),
        )
        if dry_run:
            print_json(msgspec.to_builtins(grid.candidates()))
            return
        found = sweep.run(
            triton, name, version, grid, p99_ms=p99_ms, concurrency=concurrency, seconds=seconds, pairs=pairs
        )
        sweep.write(found, result_dir)
        if output is Format.json:
            print_json(msgspec.to_builtins(found))
            return
        table = Table("configuration", "requests/s", "p50 ms", "p99 ms", "front", "chosen")
        for trial in found.trials:
            marks = ("yes" if trial in found.front else "", "yes" if trial == found.chosen else "")
            figures = (f"{trial.throughput:.0f}", f"{trial.p50_ms:.2f}", f"{trial.p99_ms:.2f}")
            table.add_row(trial.candidate.label, *figures, *marks)
        out.print(table)
        out.print(found.reason)
