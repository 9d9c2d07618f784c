"""Tables and the progress line of the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from loadtest.compare import Comparison, Line
from loadtest.driver import messages
from loadtest.results import Result

_STYLES: Final = {"pass": "green", "fail": "red", "error": "red", "inconclusive": "yellow", "no_data": "yellow"}


def number(value: float | None) -> str:
    """A figure with three significant digits, or a dash where there is none."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def interval(line: Line) -> str:
    """The confidence interval of a comparison's line, or that it is unknown."""
    known = line.low is not None and line.high is not None
    return f"{number(line.low)} to {number(line.high)}" if known else "unknown"


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[messages.Progress], None]]:
    """Show a run as it goes; on a terminal the line moves, elsewhere nothing is printed."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[seen]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, seen="starting the load generators")

        def show(p: messages.Progress) -> None:
            seen = f"{p.rate_per_s:,.0f}/s  p50 {number(p.p50_ms)} ms  p99 {number(p.p99_ms)} ms  {p.errors} errors"
            bar.update(task, total=p.duration_s, completed=p.t, seen=seen)

        yield show


@contextmanager
def progress_line(console: Console) -> Iterator[Callable[[messages.Progress], None]]:
    """Show runs that follow one another on one moving line; on anything but a terminal nothing is printed."""
    with console.status("") as status:

        def show(p: messages.Progress) -> None:
            left = f"{p.t:3.0f} of {p.duration_s:.0f} s"
            status.update(f"{left}  {p.rate_per_s:,.0f}/s  p50 {number(p.p50_ms)} ms  p99 {number(p.p99_ms)} ms")

        yield show


def print_result(console: Console, result: Result) -> None:
    """Figures, objectives and notes of a run."""
    table = Table(title=f"{result.scenario['name']}: {result.duration_s:g} s, first {result.warmup_s:g} s not counted")
    for column in ("part", "requests", "answers/s", "p50 ms", "p90 ms", "p99 ms", "errors"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for g in result.groups:
        latencies = (number(v) for v in (g.latency.p50_ms, g.latency.p90_ms, g.latency.p99_ms))
        kinds = "".join(f" {kind}: {count}" for kind, count in g.error_kinds.items())
        table.add_row(g.where, f"{g.requests:,}", number(g.rate_per_s), *latencies, f"{g.errors}{kinds}")
    console.print(table)
    if result.comparison:
        print_comparison(console, result.comparison)
    judged = Table(title="objectives")
    for column in ("objective", "seen", "verdict", "why"):
        judged.add_column(column)
    for o in result.objectives:
        judged.add_row(o.objective, number(o.value), f"[{_STYLES[o.verdict]}]{o.verdict}[/]", o.reason)
    console.print(judged)
    for note in result.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    console.print(f"verdict: [{_STYLES[result.verdict]}]{result.verdict}[/]")


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Ratios with their intervals."""
    how = "slices of one run as pairs" if comparison.paired else "slices of two runs"
    table = Table(title=f"{comparison.a} against {comparison.b} ({how}: {comparison.slices_a}, {comparison.slices_b})")
    percent = f"{100 * comparison.confidence:g} % interval"
    for column in ("metric", "a", "b", "a/b", percent, "finding"):
        table.add_column(column, justify="left" if column in ("metric", "finding") else "right")
    for line in comparison.lines:
        name = f"{line.metric} (a-b)" if line.metric == "error_rate" else line.metric
        table.add_row(name, number(line.a), number(line.b), number(line.ratio), interval(line), line.finding)
    console.print(table)
