"""What stays behind when a step refuses: enough to see it again without the pipeline."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from pathlib import Path

from export.errors import StepError
from export.run import Run

_KEPT_PER_MODEL = 8

_SCRIPT = '''\
"""Repeats the refused export of {name!r}: step {step}.

{message}
"""

import subprocess
import sys

raise SystemExit(subprocess.call([sys.executable, "-m", "export", {arguments}]))
'''


def keep(run: Run, failure: StepError) -> Path | None:
    """Copy repro script, model and worst samples beside the repository; None when even that cannot be written."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")
    base = run.repository.side / "failures"
    directory = base / f"{run.request.name}-{stamp}-{failure.step.label}"
    try:
        directory.mkdir(parents=True)
        (directory / "request.json").write_text(run.request.model_dump_json(indent=1))
        (directory / "error.txt").write_text(f"{failure.step.label}: {failure}\n")
        (directory / "repro.py").write_text(_script(run, failure))
        for path in failure.evidence.values():
            if isinstance(path, Path) and path.exists():
                shutil.copy2(path, directory)
        for model in (run.final, run.stripped, run.raw):
            if model.is_file():
                shutil.copy2(model, directory / "model.onnx")
                break
        if run.cases.is_file():
            shutil.copy2(run.cases, directory)
    except OSError:
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
        return None
    for old in sorted(base.glob(f"{run.request.name}-2*"))[:-_KEPT_PER_MODEL]:
        shutil.rmtree(old, ignore_errors=True)
    return directory


def _script(run: Run, failure: StepError) -> str:
    request = run.request
    arguments = [request.spec, "--repo", request.repo, "--name", request.name, "--dry-run", "--fresh"]
    arguments += ["--precision", request.precision, "--max-batch", str(request.max_batch)]
    arguments += ["--target-triton", request.target_triton]
    if request.tensorrt != "off":
        arguments.append("--tensorrt" if request.tensorrt == "plan" else "--tensorrt-accelerator")
    if request.trust:
        arguments.append("--trust")
    if request.opset:
        arguments += ["--opset", str(request.opset)]
    if request.samples:
        arguments += ["--samples", str(request.samples)]
    for tolerance in request.tolerances:
        arguments += ["--tolerance", tolerance]
    message = str(failure).replace("\\", "\\\\").replace('"""', "'''")
    return _SCRIPT.format(
        name=request.name, step=failure.step.label, message=message, arguments=", ".join(repr(a) for a in arguments)
    )
