"""`python -m loadtest.gpu`, which is what `make gpu-bench` runs."""

import os
import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Final

import typer

from loadtest import machine
from loadtest.cli_output import err, errors
from loadtest.errors import BrokenRunError
from loadtest.gpu import report, stack
from loadtest.gpu.measure import Bench, Settings, worker_counts
from loadtest.gpu.workspace import Workspace

# More is to be done: the code of sysexits.h for "try again later".
EXIT_MORE: Final = 75
_TERMINATED: Final = 128 + signal.SIGTERM
app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def bench(
    *,
    cpu: Annotated[bool, typer.Option("--cpu", help="Small models on the processor.")] = False,
    model: Annotated[list[str] | None, typer.Option(help="Only these models; repeatable.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, fp16; repeatable (default: both).")] = None,
    workers: Annotated[list[int] | None, typer.Option(min=1, help="Gateway workers to try; repeatable.")] = None,
    each: Annotated[float, typer.Option(min=3, help="Seconds of each probe.")] = 8.0,
    compare: Annotated[float, typer.Option(min=8, help="Seconds of the comparison side by side.")] = 30.0,
    top: Annotated[float, typer.Option(min=1, help="Highest rate that is tried, requests/s.")] = 20_000.0,
    within: Annotated[float, typer.Option(min=0.05, max=1, help="How well a knee is to be known.")] = 0.1,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes of the load generator (default: a quarter of the cores).")
    ] = None,
    budget: Annotated[float, typer.Option(min=30, help="Seconds until no new stage is begun.")] = 86_400.0,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="One short probe each: shows that it works, not how fast.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where work and results are kept.")] = Path(".sluice/gpu-bench"),
    page: Annotated[Path | None, typer.Option(help="The document (default: docs/benchmarks/gpu-DEVICE.md).")] = None,
    wheels: Annotated[
        Path | None, typer.Option(help="Install all wheels of this directory first, pieces of them too; no index.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget earlier results.")] = False,
    only_check: Annotated[bool, typer.Option("--check", help="Look at the machine, measure nothing.")] = False,
) -> None:
    """Measure models on a real Triton, straight and through the gateway, and write a page about it.

    What is done is kept: a run that is cut off, or ends for want of `--budget`, goes on where it was. Exit codes:
    0 the page is written; 75 run it again for the rest; 1 a stage failed; 3 the folder belongs to other settings;
    4 the machine lacks something, with the remedy.
    """
    # Told to end, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    with errors():
        if wheels is not None:
            stack.install(wheels)
        facts = {**machine.describe("sluice", "tritonclient", "locust", "torch"), "load": os.getloadavg()[2]}
        found = stack.check(cpu=cpu, processor=str(facts["cpu"]))
        err.print(f"{found.device}: ONNX Runtime {found.onnxruntime} with {found.provider}", markup=False)
        if only_check:
            return
        settings = Settings(
            cpu=cpu,
            names=tuple(model or ()),
            precisions=tuple(precision or ("fp32", "fp16")),
            workers=worker_counts(workers or (), int(facts["cores"])),
            each_s=each,
            compare_s=compare,
            top=top,
            processes=processes or max(1, int(facts["cores"]) // 4),
            within=within,
            smoke=smoke,
        )
        settings.models()
        if fresh and folder.exists():
            rmtree(folder)
        workspace = Workspace(folder, {**asdict(settings), "device": found.device})
        made = Bench(workspace, settings)
        done = workspace.run(made.stages(), budget, lambda text: err.print(text, markup=False))
        document = page or Path("docs/benchmarks") / f"gpu-{_slug('cpu' if cpu else found.device)}.md"
        report.write(document, found, settings, made, facts, _command())
        err.print(f"{document} written" + ("" if done.complete else ", with gaps"), markup=False)
        if done.failed:
            raise BrokenRunError(
                "stages that failed (logs are in the folder; the same command tries them again):\n"
                + "\n".join(f"- {key}: {reason.splitlines()[0]}" for key, reason in done.failed.items())
            )
    if not done.complete:
        raise typer.Exit(EXIT_MORE)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _command() -> str:
    """The command that was given, without what concerns only this machine."""
    local = {"--folder", "--page", "--wheels", "--budget"}
    kept: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in local:
            if not value:
                next(arguments, None)
        elif name != "--fresh":
            kept.append(argument)
    return "make gpu-bench" + (f' GPU_BENCH_FLAGS="{" ".join(kept)}"' if kept else "")


if __name__ == "__main__":
    app()
