"""`overhead`: what the gateway costs per request, beside nginx, HAProxy and Envoy."""

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadtest import machine, objectives, results
from loadtest.cli_output import Format, MarkdownOption, OutputOption, err, errors, out, print_json, typed, write_text
from loadtest.overhead import bench, figures, markdown, recipes
from loadtest.overhead.arm import Recipe

_MEMORY_MIB = (1, 64)
_MEMORY_SECONDS = 15.0


def overhead(
    *,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds over all arms, after one to warm up.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of a visit.")] = 3.0,
    connections: Annotated[int, typer.Option(min=2, max=1000, help="Concurrent connections.")] = 32,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Also measure memory under 64 MiB bodies.")
    ] = True,
    note: Annotated[list[str] | None, typer.Option(help="Remark for the page, repeatable.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Store the result here.")] = None,
    markdown_file: MarkdownOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check that every program is there, run nothing.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure CPU per request, rate and latency of Sluice and other proxies in one interleaved run.

    Needs nginx (the stub), wrk and two CPUs; nginx, HAProxy and Envoy become arms where they are installed. Exit
    codes: 0 all targets hold; 8 one is missed; 9 one could not be measured, or the run does not count; 1 an arm
    failed; 4 a program is missing.
    """
    with errors():
        arms = [
            recipes.sluice(recipes.SLUICE),
            recipes.sluice(recipes.TWIN),
            recipes.sluice(recipes.SHADOW, shadow=True),
        ]
        installed, notes = recipes.others()
        arms += installed
        programs = {recipe.name: _version(recipe) for recipe in installed}
        settings = bench.Settings(rounds=rounds, seconds=seconds, connections=connections)
        bench.check_tools()
        if dry_run:
            out.print("\n".join([f"arms: {', '.join([bench.DIRECT, *(a.name for a in arms)])}", *notes]))
            return

        def show(s: bench.Sample) -> None:
            cost = "" if s.cpu_us_per_request is None else f"{s.cpu_us_per_request:8.1f} us CPU"
            err.print(f"round {s.round} {s.load:22} {s.arm:20} {s.measured.rate_per_s:9,.0f}/s {cost}")

        samples = bench.compare(arms, settings, show)
        footprints = []
        if memory:
            footprints.append(
                bench.footprint(arms[0], bodies_mib=_MEMORY_MIB, connections=connections, seconds=_MEMORY_SECONDS)
            )
        valid, targets = figures.validity(samples), figures.judge(samples, footprints)
        result = figures.Overhead(
            format=figures.FORMAT,
            taken_at=datetime.now(UTC).date().isoformat(),
            rounds=rounds,
            seconds=seconds,
            connections=connections,
            machine=machine.describe("sluice", "uvloop", "httptools"),
            programs=programs,
            rows=figures.rows(samples),
            memory=footprints,
            targets=[*valid, *targets],
            verdict=figures.overall(valid, targets),
            notes=[*(note or []), *notes],
            samples=samples,
        )
        page = markdown.render(result, typed())
        if json_file:
            results.write(json_file, result)
        if markdown_file:
            write_text(markdown_file, page)
        if output is Format.JSON:
            print_json(msgspec.structs.replace(result, samples=[]))
        else:
            out.print(page.partition("## Method")[0], markup=False, soft_wrap=True)
    raise typer.Exit(objectives.EXIT_CODES[result.verdict])


def _version(recipe: Recipe) -> str:
    """The first dotted number that a program prints about its version."""
    flag = {"nginx": "-v", "haproxy": "-v"}.get(recipe.name, "--version")
    shown = subprocess.run([recipe.command[0], flag], capture_output=True, text=True, check=False, timeout=20)
    found = re.search(r"\d+\.\d+\.\d+", shown.stdout + shown.stderr)
    return found[0] if found else "of unknown version"
