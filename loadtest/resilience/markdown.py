"""The figures of resilience as a page."""

from collections.abc import Sequence
from typing import Final

from loadtest.report.terminal import number
from loadtest.resilience.figures import Cell, Figure, Resilience

_ELSEWHERE: Final = """\
## Shown by other commands

| what | command, in a checkout |
|---|---|
| 10^6 inputs to every parser, none unhandled | `python -m tests.fuzz --inputs 1000000` |
| 10^5 aborted requests among others, no answer to a wrong one | `python -m tests.faults.chaos --aborts 100000` |
| minutes of load, kills, reloads and flapping backends, invariants checked | `make chaos` |
| [CPU of a refused request over a served one](overhead.md) | `sluice loadtest overhead` |
| [each bad input and fault with its answer](../bad-inputs.md) | `pytest tests/wire -k "bad_input or fault"` |"""


def render(result: Resilience, command: str) -> str:
    """The page. `command` repeats the run."""
    machine = result.machine
    taken = (
        f"Taken {result.taken_at} with `{command}` on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['kernel']}, Python {machine['python']}. Gateway, backends and clients "
        "share these cores, so ratios and counts carry over to other machines, milliseconds do not."
    )
    how = (
        "Every figure starts the real `sluice serve` on free ports of the loopback interface, with one worker and all "
        "settings at their defaults where nothing else is said. Requests are sent at a rate that does not wait for "
        "answers, with exponential gaps; latency counts from the moment a request is due, and p99 is over answers "
        "with status 200. A ratio is the geometric mean of the ratios of single rounds without the highest and the "
        "lowest fifth, with the interval that holds it with 90 % confidence (bootstrap over rounds); a target is met "
        "where the whole interval keeps it, missed where the whole interval is beyond it, and otherwise inconclusive."
    )
    lines = ["| figure | target | seen | verdict |", "|---|---|---|---|"]
    for figure in result.figures:
        for t in figure.targets:
            reason = f": {t.reason}" if t.reason else ""
            verdict = t.verdict.replace("_", " ")
            lines.append(f"| {figure.name} | {t.objective} | {number(t.value)} | {verdict}{reason} |")
    parts = ["# What load and faults do to it", taken, how, f"Verdict: **{result.verdict.replace('_', ' ')}**."]
    parts.append("\n".join(lines))
    for figure in result.figures:
        parts += [f"## {figure.title}", table(figure)]
        parts += [f"Note: {note}." for note in figure.notes]
        parts.append(figure.method)
        parts.append(f"Repeated by `sluice loadtest resilience {figure.name}`; took {figure.took_s:.0f} s.")
    return "\n\n".join([*parts, _ELSEWHERE]) + "\n"


def table(figure: Figure) -> str:
    """What was seen."""
    lines = [f"| {' | '.join(figure.columns)} |", "|" + "---|" * len(figure.columns)]
    lines += [f"| {' | '.join(_cells(row))} |" for row in figure.rows]
    return "\n".join(lines)


def _cells(row: Sequence[Cell]) -> list[str]:
    return [cell if isinstance(cell, str) else f"{cell:,}" if isinstance(cell, int) else number(cell) for cell in row]
