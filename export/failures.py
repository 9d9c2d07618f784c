"""What stays behind when a step refuses: enough to see it again, by one script."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from export.errors import StepError
from export.run import Run

_KEPT_PER_MODEL = 8

_SCRIPT = '''\
"""Repeats the refused publication of {name!r}: step {step}.

{message}
"""

import subprocess
import sys

raise SystemExit(subprocess.call([sys.executable, "-m", "export", {arguments}]))
'''


def keep(
    side: Path, name: str, failure: StepError, *, request: str, arguments: Sequence[str], files: Mapping[str, Path]
) -> Path | None:
    """Keep script, request, evidence and those of `files` that there are in `side`; None when that cannot be written.

    `arguments` are those of `python -m export` that repeat it without publishing; `request` is it as JSON.
    """
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")
    base = side / "failures"
    directory = base / f"{name}-{stamp}-{failure.step.label}"
    evidence = {path.name: path for path in failure.evidence.values() if isinstance(path, Path)}
    try:
        directory.mkdir(parents=True)
        (directory / "request.json").write_text(request)
        (directory / "error.txt").write_text(f"{failure.step.label}: {failure}\n")
        (directory / "repro.py").write_text(_script(name, failure, arguments))
        for kept, path in {**files, **evidence}.items():
            if path.is_file():
                shutil.copy2(path, directory / kept)
    except OSError:
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
        return None
    for old in sorted(base.glob(f"{name}-2*"))[:-_KEPT_PER_MODEL]:
        shutil.rmtree(old, ignore_errors=True)
    return directory


def keep_export(run: Run, failure: StepError) -> Path | None:
    """What an export leaves: the model as far as it came, the cases, and what Triton said."""
    model = next((path for path in (run.final, run.stripped, run.raw) if path.is_file()), run.final)
    return keep(
        run.repository.side,
        run.request.name,
        failure,
        request=run.request.model_dump_json(indent=1),
        arguments=_arguments(run),
        files={"model.onnx": model, "cases.npz": run.cases, "triton.log": run.work / "triton.log"},
    )


def _script(name: str, failure: StepError, arguments: Sequence[str]) -> str:
    message = str(failure).replace("\\", "\\\\").replace('"""', "'''")
    listed = ", ".join(repr(argument) for argument in arguments)
    return _SCRIPT.format(name=name, step=failure.step.label, message=message, arguments=listed)


def _arguments(run: Run) -> list[str]:
    request = run.request
    arguments = [request.spec, "--repo", request.repo, "--name", request.name, "--dry-run", "--fresh"]
    arguments += ["--precision", request.precision, "--max-batch", str(request.max_batch)]
    arguments += ["--target-triton", request.target_triton, "--serve-check", request.serve_check]
    arguments += ["--instances", request.instances, "--instance-count", str(request.instance_count)]
    arguments += ["--queue-delay-us", str(request.queue_delay_us), "--queue-size", str(request.queue_size)]
    arguments += ["--queue-timeout-us", str(request.queue_timeout_us)]
    if request.target_tensorrt:
        arguments += ["--target-tensorrt", request.target_tensorrt]
    if request.tensorrt != "off":
        arguments.append("--tensorrt" if request.tensorrt == "plan" else "--tensorrt-accelerator")
    if request.trust:
        arguments.append("--trust")
    if request.response_cache:
        arguments.append("--response-cache")
    if request.reconfigure:
        arguments.append("--reconfigure")
    if request.overlay:
        arguments += ["--overlay", str(request.overlay)]
    for size in request.preferred_batch_sizes:
        arguments += ["--preferred-batch", str(size)]
    if request.opset:
        arguments += ["--opset", str(request.opset)]
    if request.samples:
        arguments += ["--samples", str(request.samples)]
    for tolerance in request.tolerances:
        arguments += ["--tolerance", tolerance]
    return arguments
