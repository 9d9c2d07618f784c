"""Results as Markdown pages, for documents that are kept beside the code."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loadtest.ceiling import Ceiling
from loadtest.compare import Comparison
from loadtest.knee import Probe
from loadtest.objectives import Judgement
from loadtest.report.terminal import interval, number
from loadtest.results import Result
from loadtest.summary import Group


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def machine(facts: Mapping[str, Any]) -> str:
    """The machine in one phrase."""
    packages = "".join(f", {name} {version}" for name, version in facts["packages"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['kernel']}, Python {facts['python']}{packages}"


def page(title: str, command: str, facts: Mapping[str, Any], parts: Iterable[str]) -> str:
    """A page that says how its figures were taken and on what."""
    return "\n\n".join([f"# {title}", f"Taken with `{command}` on {machine(facts)}.", *parts]) + "\n"


def run(result: Result, command: str) -> str:
    """A run: objectives, figures, comparison of two arms."""
    scenario = result.scenario
    how = (
        f"{scenario['description']}. {result.duration_s:g} s, {scenario['arrivals']} arrivals, shape "
        f"{scenario['shape']['kind']}; the first {result.warmup_s:g} s are not counted. Verdict: "
        f"**{result.verdict.replace('_', ' ')}**."
    )
    parts = [how, *(f"Note: {note}." for note in result.notes)]
    parts += [objectives(result.objectives), figures(result.groups)]
    if result.comparison:
        parts.append(comparison(result.comparison))
    cpu = ", ".join(f"{share:.0%}" for share in result.generator.cpu_shares)
    parts.append(f"CPU of the load generator's processes: {cpu}.")
    return page(f"Load test {scenario['name']}", command, result.machine, parts)


def probes(found: Iterable[Probe]) -> str:
    """The probes of a search for the knee."""
    rows = [
        (
            number(p.rate_per_s), number(p.achieved_per_s), number(p.p50_ms), number(p.p99_ms), f"{p.error_rate:.3%}",
            f"{p.generator_cpu:.0%}", f"{p.verdict} {'; '.join(p.reasons)}".strip(),
        )
        for p in found
    ]  # fmt: skip
    return table(("offered/s", "answered/s", "p50 ms", "p99 ms", "errors", "generator CPU", "verdict"), rows)


def ceilings(found: Iterable[Ceiling]) -> str:
    """What Locust sends at most, by number of processes and encoding."""
    rows = [
        (
            str(c.processes), c.encoding, number(c.rate_per_s), number(c.per_cpu_second), number(c.p50_ms),
            ", ".join(f"{s:.0%}" for s in c.cpu_shares),
        )
        for c in found
    ]  # fmt: skip
    head = ("processes", "body", "requests/s", "requests per CPU second", "p50 ms", "CPU of each process")
    return table(head, rows)


def figures(groups: Iterable[Group]) -> str:
    """Rates, latencies and errors of the parts of a run."""
    rows = [
        (
            g.where, f"{g.requests:,}", number(g.rate_per_s), number(g.latency.p50_ms), number(g.latency.p90_ms),
            number(g.latency.p99_ms), number(g.latency.p999_ms), str(g.errors),
        )
        for g in groups
    ]  # fmt: skip
    return table(("part", "requests", "answers/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "errors"), rows)


def objectives(judged: Iterable[Judgement]) -> str:
    """What was asked for and what was seen."""
    rows = [(o.objective, number(o.value), o.verdict.replace("_", " "), o.reason) for o in judged]
    return table(("objective", "seen", "verdict", "why"), rows)


def comparison(found: Comparison) -> str:
    """Ratios with their intervals."""
    rows = [
        (
            f"{line.metric} (a-b)" if line.metric == "error_rate" else line.metric,
            number(line.a),
            number(line.b),
            number(line.ratio),
            interval(line),
            line.finding,
        )
        for line in found.lines
    ]
    how = f"Slices resampled {'as pairs' if found.paired else 'apart'}: {found.slices_a} and {found.slices_b}."
    percent = f"{100 * found.confidence:g} % interval"
    return f"{how}\n\n" + table(("metric", f"a: {found.a}", f"b: {found.b}", "a/b", percent, "finding"), rows)
