"""The page of a proof: what was asked, what was seen, and on what machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtest import histogram
from loadtest.knee import Side
from loadtest.proof.measure import DIRECT, GATEWAY, MODEL, Proof, Settings
from loadtest.report import markdown
from loadtest.report.plots import Picture, percentiles
from loadtest.report.terminal import interval, number
from loadtest.results import Result

_BUSY: Final = 0.5
_COMPARED: Final = ("latency_p50_ms", "latency_p99_ms", "rate_per_s", "error_rate")
_TITLE: Final = "Under load: the gateway beside Triton"
_SHARED: Final = (
    "The load generator, the gateway and Triton shared the machine's processor: rates are what it gives to all three "
    "together, and what one of them takes, the others lack."
)


def write(page: Path, proof: Proof, settings: Settings, facts: Mapping[str, Any], load: float, command: str) -> None:
    """Write the page, and its pictures beside it.

    Args:
        page: where to.
        proof: what was seen.
        settings: what was asked.
        facts: the machine.
        load: its load average over the minute before.
        command: what repeats the page.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    stall, knees = page.with_name(f"{page.stem}-stall.svg"), page.with_name(f"{page.stem}-knee.svg")
    named = [
        (arrivals, histogram.merge(cell.latency for cell in result.cells))
        for arrivals, result in (("open", proof.opened), ("closed", proof.closed))
    ]
    stall.write_text(percentiles(named) + "\n", encoding="utf-8")
    knees.write_text(_knee_picture(proof.knees) + "\n", encoding="utf-8")
    parts = [
        f"{_SHARED} Load average in the minute before: {load:.1f}.{_busy(load, facts)}",
        *_objectives(proof.runs, settings),
        *_ceilings(proof),
        *_knees(proof, settings, knees.name),
        *_stall(proof, stall.name),
    ]
    page.write_text(markdown.page(_TITLE, command, facts, parts), encoding="utf-8")


def _busy(load: float, facts: Mapping[str, Any]) -> str:
    return (
        " **The machine was busy with other work: these figures do not count.**"
        if load > _BUSY * facts["cores"]
        else ""
    )


def _objectives(runs: Sequence[Result], settings: Settings) -> list[str]:
    how = (
        f"The `{MODEL}` classifier, on a real Triton, through a gateway of {settings.workers} worker(s) and straight "
        f"to Triton: {settings.run_s:g} s each, both ways in turns of a second within one run. Objectives are judged "
        "on what went through the gateway."
    )
    rows = []
    for run in runs:
        for arm in (GATEWAY, DIRECT):
            group = next(g for g in run.groups if g.where == f"arm={arm}")
            verdict = run.verdict.replace("_", " ") if arm == GATEWAY else ""
            latency = (number(group.latency.p50_ms), number(group.latency.p99_ms))
            errors = f"{group.error_rate:.3%}"
            rows.append((f"`{run.scenario['name']}`", arm, number(group.rate_per_s), *latency, errors, verdict))
    head = ("scenario", "way", "answers/s", "p50 ms", "p99 ms", "errors", "objectives")
    parts = ["## Objectives", how, markdown.table(head, rows)]
    missed = [
        f"- `{run.scenario['name']}`: {o.objective}: {o.reason or o.verdict}"
        for run in runs
        for o in run.objectives
        if o.verdict != "pass"
    ]
    parts += ["Not held:\n\n" + "\n".join(missed)] if missed else ["Every objective held in every scenario."]
    compared = [
        (
            f"`{run.scenario['name']}`", line.metric + (" (difference)" if line.metric == "error_rate" else ""),
            number(line.ratio), interval(line), line.finding,
        )
        for run in runs if run.comparison
        for line in run.comparison.lines if line.metric in _COMPARED
    ]  # fmt: skip
    parts.append("Through the gateway over straight to Triton, slices of one run resampled as pairs:")
    parts.append(markdown.table(("scenario", "metric", "ratio", "95 % interval", "finding"), compared))
    notes = [f"- `{run.scenario['name']}`: {note}." for run in runs for note in run.notes]
    return [*parts, *(["Notes:\n\n" + "\n".join(notes)] if notes else [])]


def _ceilings(proof: Proof) -> list[str]:
    how = "What Locust itself sends at most, against an nginx stub on the same machine: nothing faster can be shown."
    return ["## The load generator's own ceiling", how, markdown.ceilings(proof.ceilings)]


def _knees(proof: Proof, settings: Settings, picture: str) -> list[str]:
    how = (
        "The highest open-loop rate of `digits-open` at which its objectives on latency and errors hold; latency "
        f"counts from the intended send time. Probes of {settings.probe_s:g} s, both ways in turns; the answer is "
        f"known to {settings.knee.precision:.0%}."
    )
    rows = []
    for side in proof.knees:
        held = next((p for p in side.probes if p.rate_per_s == side.knee.rate_per_s and p.verdict == "pass"), None)
        rate = f"{side.knee.rate_per_s:,.0f}" if side.knee.rate_per_s else "none"
        latency = (number(held.p50_ms), number(held.p99_ms)) if held else ("-", "-")
        rows.append((side.name, rate, *latency, side.knee.why))
    parts = ["## The knee", how, markdown.table(("way", "requests/s", "p50 ms there", "p99 ms there", "why"), rows)]
    parts.append(f"![p99 by offered rate, direct and through the gateway]({picture})")
    for side in proof.knees:
        parts += [f"Probes, {side.name}:", markdown.probes(side.probes)]
    return parts


def _stall(proof: Proof, picture: str) -> list[str]:
    how = (
        "A scripted server answers after 2 ms, and for one second in the middle of the run not at all. Closed users "
        "stop asking and all but miss it; open arrivals are due whether or not it answers."
    )
    rows = []
    for arrivals, result in (("open, 200 requests/s", proof.opened), ("closed, 4 users", proof.closed)):
        group = result.groups[0]
        latency = (group.latency.p50_ms, group.latency.p90_ms, group.latency.p99_ms, group.latency.max_ms)
        rows.append((arrivals, f"{group.requests:,}", *map(number, latency), result.verdict))
    head = ("arrivals", "requests", "p50 ms", "p90 ms", "p99 ms", "slowest ms", "p99 < 100 ms")
    alt = "Latency by percentile, open and closed"
    return ["## Open loop against closed loop on a stall", how, markdown.table(head, rows), f"![{alt}]({picture})"]


def _knee_picture(sides: Sequence[Side]) -> str:
    """The p99 of every probe over the rate that was offered."""
    picture = Picture("offered, requests/s", "p99, ms")
    for side in sides:
        seen = sorted((p.rate_per_s, p.p99_ms) for p in side.probes if p.p99_ms is not None)
        if seen:
            picture.axes.plot(*zip(*seen, strict=True), marker="o", markersize=3, label=side.name)
    picture.log("x", "y")
    return picture.svg()
