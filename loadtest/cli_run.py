"""`run`, `compare`, `scenarios` and `worker`."""

import subprocess
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadtest import compare as comparing
from loadtest import histogram, locust_process, objectives, results, scenario_file
from loadtest.cli_output import (
    Format,
    MarkdownOption,
    OutputOption,
    err,
    errors,
    out,
    print_json,
    typed,
    write_text,
)
from loadtest.errors import UsageError
from loadtest.execute import Options, execute
from loadtest.plan import Arm
from loadtest.scenario import Scenario, resized

ScenarioOption = Annotated[str, typer.Option("--scenario", "-s", help="Name of a built-in scenario, or a file.")]
HostOption = Annotated[str, typer.Option(help="URL of the gateway or Triton, as in http://127.0.0.1:8080.")]
ProcessesOption = Annotated[int, typer.Option(min=1, max=256, help="Locust processes on this machine.")]


def run(
    *,
    scenario: ScenarioOption,
    host: Annotated[str | None, typer.Option(help="URL of the server under test.")] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="Instead of --host, a named server; two of them take turns."),
    ] = None,
    objectives_file: Annotated[
        Path | None, typer.Option("--objectives", help="File with objectives instead of the scenario's.")
    ] = None,
    level: Annotated[
        float | None, typer.Option(min=0.001, help="Peak users (closed) or requests/s (open); the shape is scaled.")
    ] = None,
    duration: Annotated[float | None, typer.Option(min=1, help="Seconds; the shape is stretched.")] = None,
    processes: ProcessesOption = 1,
    remote_workers: Annotated[
        int, typer.Option(min=0, help="Wait for so many `loadtest worker` processes of other machines instead.")
    ] = 0,
    bind: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where remote workers connect.")] = "0.0.0.0:5557",
    instances: Annotated[int, typer.Option(min=1, help="Gateway instances behind the host; rates are per each.")] = 1,
    slice_s: Annotated[float, typer.Option("--slice", min=0.5, help="Seconds of one turn when two arms run.")] = 2.0,
    stats_url: Annotated[
        str | None, typer.Option(help="Triton to read batch sizes from; the first arm if not given.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Store the full result here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report with plots here.")] = None,
    markdown_file: MarkdownOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, send nothing.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Drive a scenario and judge its objectives.

    Exit codes: 0 all objectives hold; 8 one is missed; 9 too little was seen to tell; 1 the load could not be
    produced; 2 wrong usage; 3 a file is invalid; 4 a package is missing; 6 the server does not serve the models.
    """
    with errors():
        chosen = resized(scenario_file.load_scenario(scenario), peak=level, duration_s=duration)
        if objectives_file:
            wanted = tuple(scenario_file.load_objectives(objectives_file))
            chosen = chosen.model_copy(update={"objectives": wanted})
        workers = locust_process.Workers(processes=processes, remote=remote_workers, bind=bind)
        options = Options(
            arms=_arms(host, arm or []), workers=workers, instances=instances, arm_slice_s=slice_s, stats_url=stats_url
        )
        if dry_run:
            _show_plan(chosen, options, output)
            return
        from loadtest.report import html as report  # noqa: PLC0415 (matplotlib takes a second to import)
        from loadtest.report import markdown  # noqa: PLC0415
        from loadtest.report.terminal import print_result, progress_bar  # noqa: PLC0415

        with progress_bar(err, chosen.name) as progress:
            result = execute(chosen, options, progress)
        if json_file:
            results.write(json_file, result)
        if html:
            report.write(html, result)
        if markdown_file:
            write_text(markdown_file, markdown.run(result, typed()))
        if output is Format.JSON:
            print_json(msgspec.structs.replace(result, cells=[]))
        else:
            print_result(out, result)
    raise typer.Exit(objectives.EXIT_CODES[result.verdict])


def compare(
    a: Annotated[Path, typer.Argument(help="A stored result.")],
    b: Annotated[Path | None, typer.Argument(help="Another one; the same again if left out.")] = None,
    *,
    select_a: Annotated[str, typer.Option(help="Part of A, as in arm=gateway or variant=v2.")] = "",
    select_b: Annotated[str, typer.Option(help="Part of B.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Store the comparison here.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw both latencies by percentile here.")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Set two runs, or two parts of one run, side by side: ratios with 95 % intervals.

    Parts of one run are compared slice by slice as pairs. Exit codes: 0 compared, 2 usage, 3 file.
    """
    with errors():
        from loadtest.report.terminal import print_comparison  # noqa: PLC0415 (rich tables only where needed)

        first = results.read(a)
        second = results.read(b) if b else first
        if b is None and select_a == select_b:
            raise UsageError("one result needs --select-a and --select-b that differ, as in arm=gateway and arm=direct")
        names = [" ".join(filter(None, (path.stem, where))) for path, where in ((a, select_a), (b or a, select_b))]
        sides = [results.side(r, w, n) for r, w, n in zip((first, second), (select_a, select_b), names, strict=True)]
        compared = comparing.compare(*sides, paired=b is None)
        if json_file:
            results.write(json_file, compared)
        if svg:
            from loadtest.report.plots import percentiles  # noqa: PLC0415 (matplotlib takes a second to import)

            named = [(s.name, histogram.merge(c.latency for c in s.cells if c.slice in set(s.slices))) for s in sides]
            write_text(svg, percentiles(named) + "\n")
        if output is Format.JSON:
            print_json(compared)
        else:
            print_comparison(out, compared)


def scenarios(output: OutputOption = Format.TABLE) -> None:
    """List the scenarios that come with Sluice."""
    found = [scenario_file.load_scenario(name) for name in scenario_file.built_in()]
    if output is Format.JSON:
        print_json([s.model_dump(mode="json") for s in found])
        return
    for s in found:
        out.print(f"[bold]{s.name}[/]  {s.arrivals}, {s.shape.kind}\n    {s.description}")


def worker(
    *,
    master: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where `run --remote-workers` listens.")],
    processes: ProcessesOption = 1,
) -> None:
    """Generate load for a `run` on another machine; ends with it."""
    with errors():
        host, _, port = master.rpartition(":")
        if not host or not port.isdecimal():
            raise UsageError(f"--master {master}: must be HOST:PORT")
        args = ["--worker", "--master-host", host, "--master-port", port, "--processes", str(processes)]
        ended = subprocess.run(
            [*locust_process.command(), "--headless", *args], env=locust_process.environment(), check=False
        )
    raise typer.Exit(ended.returncode)


def _arms(host: str | None, named: list[str]) -> list[Arm]:
    if (host is None) == (not named):
        raise UsageError("give either --host URL, or --arm NAME=URL once or twice")
    arms = [Arm("host", host)] if host else [Arm(n, u) for n, _, u in (text.partition("=") for text in named)]
    if len(arms) > 2 or len({a.name for a in arms}) != len(arms):
        raise UsageError("at most two arms, and each with a name of its own")
    for a in arms:
        if not a.name or not a.url.startswith(("http://", "https://")):
            raise UsageError(f"`{a.name}={a.url}`: an arm is NAME=URL with a URL like http://127.0.0.1:8080")
    return [Arm(a.name, a.url.rstrip("/")) for a in arms]


def _show_plan(scenario: Scenario, options: Options, output: Format) -> None:
    curve = scenario.shape.curve()
    if output is Format.JSON:
        print_json({"scenario": scenario.model_dump(mode="json"), "arms": options.arms, "workers": options.workers})
        return
    unit = "requests/s" if scenario.arrivals == "open" else "users"
    out.print(
        f"{scenario.name}: {curve.duration_s:g} s, up to {curve.peak:g} {unit}, {options.workers.count} worker(s)"
    )
    for request in scenario.requests:
        out.print(f"  {request.name}: {request.model}, {request.input}, {request.encoding}, batch {request.batch}")
    for objective in scenario.objectives:
        out.print(f"  must hold: {objective}")
    for a in options.arms:
        out.print(f"  {a.name}: {a.url}")
