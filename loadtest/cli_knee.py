"""`knee` and `ceiling`: how much the server can take, and how much the load generator can give."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadtest import ceiling as ceiling_of
from loadtest import errors as codes
from loadtest import knee as kneeing
from loadtest import machine, probing, results, scenario_file
from loadtest.cli_output import Format, MarkdownOption, OutputOption, err, errors, out, print_json, typed, write_text
from loadtest.cli_run import HostOption, ProcessesOption, ScenarioOption
from loadtest.errors import UsageError
from loadtest.execute import Options, execute
from loadtest.locust_process import Workers
from loadtest.plan import Arm
from loadtest.report import markdown
from loadtest.report.terminal import number, progress_bar


class KneeReport(msgspec.Struct, frozen=True):
    """What `knee --json` stores."""

    scenario: str
    seconds_each: float
    knee: kneeing.Knee
    probes: list[kneeing.Probe]
    machine: dict[str, object]


class CeilingReport(msgspec.Struct, frozen=True):
    """What `ceiling --json` stores."""

    ceilings: list[ceiling_of.Ceiling]
    machine: dict[str, object]


def knee(
    *,
    host: HostOption,
    scenario: ScenarioOption = "digits-open",
    low: Annotated[
        float | None,
        typer.Option("--from", min=1, help="Lowest rate, requests/s (default: the lowest that a probe can judge)."),
    ] = None,
    high: Annotated[float, typer.Option("--to", min=1, help="Highest rate, requests/s.")] = 20_000.0,
    each: Annotated[float, typer.Option(min=3, help="Seconds of every probe, 1 of them warm-up.")] = 10.0,
    precision: Annotated[float, typer.Option(min=0.01, max=1, help="Stop when the answer is known this well.")] = 0.05,
    connections: Annotated[int | None, typer.Option(min=1, help="Instead of the scenario's.")] = None,
    processes: ProcessesOption = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Store the probes and the answer here.")] = None,
    markdown_file: MarkdownOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Find the highest open-loop rate at which the scenario's latency and error objectives still hold.

    Exit codes: 0 found, or all rates up to --to hold; 8 not even --from holds; 9 a probe could not be judged.
    """
    with errors():
        base = scenario_file.load_scenario(scenario)
        need = kneeing.lowest_judgeable(base.objectives, each - 1)
        if low is not None and low < need:
            raise UsageError(
                f"--from {low:g}: {each:g} s are too short to judge rates below {need:.0f}/s; raise --each"
            )
        limits = kneeing.Range(max(need, 1.0) if low is None else low, high, precision)
        options = Options(arms=[Arm("host", host.rstrip("/"))], workers=Workers(processes=processes))

        def probe(rate: float) -> kneeing.Probe:
            with progress_bar(err, f"{rate:,.0f}/s") as progress:
                return probing.probe(execute(probing.at(base, rate, each, connections), options, progress), rate)

        def show(p: kneeing.Probe) -> None:
            err.print(probing.line(p), markup=False)

        answer, probes = kneeing.search(probe, limits, show)
        report = KneeReport(base.name, each, answer, probes, machine.describe("locust"))
        if json_file:
            results.write(json_file, report)
        if markdown_file:
            write_text(markdown_file, _knee_page(report))
        if output is Format.JSON:
            print_json(report)
        else:
            rate = "none" if answer.rate_per_s is None else f"{answer.rate_per_s:,.0f} requests/s"
            out.print(f"highest rate that meets the objectives: {rate} ({answer.why})")
    if answer.why == "undecided":
        raise typer.Exit(codes.EXIT_UNDECIDED)
    raise typer.Exit(codes.EXIT_MISSED if answer.rate_per_s is None else codes.EXIT_PASS)


def ceiling(
    *,
    processes: Annotated[list[int] | None, typer.Option(min=1, help="Locust processes to try, repeatable.")] = None,
    users: Annotated[int, typer.Option(min=1, help="Closed users in all.")] = 32,
    seconds: Annotated[float, typer.Option(min=3, help="Length of each run.")] = 8.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Store the figures here.")] = None,
    markdown_file: MarkdownOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure what Locust itself can send, against an nginx stub: no server can be shown to be faster than this."""
    with errors():
        found = ceiling_of.measure(processes or [1, 2], users=users, seconds=seconds)
        report = CeilingReport(found, machine.describe("locust", "geventhttpclient"))
        if json_file:
            results.write(json_file, report)
        if markdown_file:
            write_text(markdown_file, _ceiling_page(report))
        if output is Format.JSON:
            print_json(report)
            return
        for c in found:
            shares_text = ", ".join(f"{s:.0%}" for s in c.cpu_shares)
            rate = (
                f"{c.rate_per_s:8,.0f} requests/s, {c.per_cpu_second:8,.0f} per CPU second, p50 {number(c.p50_ms)} ms"
            )
            out.print(f"{c.processes} process(es), {c.encoding:6} {rate}, CPU {shares_text}")


def _knee_page(report: KneeReport) -> str:
    rate = "none" if report.knee.rate_per_s is None else f"{report.knee.rate_per_s:,.0f} requests/s"
    what = f"Highest rate that meets the objectives of `{report.scenario}`: **{rate}** ({report.knee.why}), "
    parts = [what + f"from probes of {report.seconds_each:g} s each:", markdown.probes(report.probes)]
    return markdown.page("The knee", typed(), report.machine, parts)


def _ceiling_page(report: CeilingReport) -> str:
    what = "What Locust itself sends at most, against an nginx stub on the same machine: nothing faster can be shown."
    title = "The load generator's own ceiling"
    return markdown.page(title, typed(), report.machine, [what, markdown.ceilings(report.ceilings)])
