"""`proof`: all that is to be shown under load, in one command that starts and ends its own servers."""

import os
import signal
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from loadtest import machine, objectives, results
from loadtest.ceiling import Ceiling
from loadtest.cli_output import Format, MarkdownOption, OutputOption, err, errors, out, print_json, typed
from loadtest.knee import Side

_TERMINATED: Final = 128 + signal.SIGTERM


class ProofReport(msgspec.Struct, frozen=True):
    """What `proof --json` stores. `load` is the machine's load average over the minute before."""

    taken_at: str
    command: str
    machine: dict[str, Any]
    load: float
    runs: list[results.Result]
    ceilings: list[Ceiling]
    knees: list[Side]
    stall: list[results.Result]
    verdict: objectives.Verdict


def proof(
    *,
    folder: Annotated[Path, typer.Option(help="Where results, reports and logs are kept.")] = Path(
        ".sluice/load-proof"
    ),
    repository: Annotated[
        Path | None, typer.Option(help="Triton repository with a model `digits`; exported if not given.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers of the gateway.")] = 1,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Seconds instead of minutes: shows that it works, not how fast.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Store all figures here.")] = None,
    markdown_file: MarkdownOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the gateway under load beside Triton on this machine, in about ten minutes.

    Exports digits, starts a real Triton and a gateway on free ports, and takes: objectives through the gateway and
    straight to Triton in turns; the load generator's own ceiling; the knee both ways; open against closed arrivals on
    a stall. Exit codes: 0 all objectives hold; 8 one is missed; 9 too little was seen to tell; 1 a part could not be
    taken; 4 a program is missing.
    """
    # Told to end, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    with errors():
        from loadtest.proof import measure, page  # noqa: PLC0415 (matplotlib takes a second to import)
        from loadtest.report.terminal import progress_line  # noqa: PLC0415

        load = os.getloadavg()[0]
        facts = machine.describe("sluice", "locust", "geventhttpclient", "tritonclient", "uvloop", "httptools")
        settings = replace(measure.SMOKE if smoke else measure.FULL, workers=workers)
        begun = time.monotonic()

        def say(text: str) -> None:
            err.print(f"{time.monotonic() - begun:5.0f} s  {text}", markup=False, soft_wrap=True)

        with progress_line(err) as follow:
            found = measure.prove(settings, folder, repository, say, follow)
        verdict = objectives.worst(run.verdict for run in found.runs)
        report = ProofReport(
            taken_at=datetime.now(UTC).date().isoformat(),
            command=typed(),
            machine=facts,
            load=load,
            runs=found.runs,
            ceilings=found.ceilings,
            knees=found.knees,
            stall=[measure.bare(found.opened), measure.bare(found.closed)],
            verdict=verdict,
        )
        if json_file:
            results.write(json_file, report)
        if markdown_file:
            page.write(markdown_file, found, settings, facts, load, typed())
        if output is Format.JSON:
            print_json(report)
        else:
            out.print(f"objectives through the gateway: {verdict}; results and reports are in {folder}")
    raise typer.Exit(objectives.EXIT_CODES[verdict])
