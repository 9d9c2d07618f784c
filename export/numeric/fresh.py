"""Starting the fresh process and reading what it found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from export.errors import Step, StepError
from export.numeric.tolerance import Tolerance
from export.numeric.worker import Job, Result

DEADLINE_S = 900.0


def judge(
    step: Step,
    kind: Literal["parity", "independence"],
    *,
    model: Path,
    cases: Path,
    work: Path,
    tolerances: dict[str, Tolerance],
) -> Result:
    """Run the worker on `model`; StepError with the worst samples when anything is outside its tolerance."""
    job_path, worst = work / f"{kind}.job.json", work / f"{kind}.worst.npz"
    worst.unlink(missing_ok=True)
    job = Job(
        kind=kind,
        model=str(model),
        cases=str(cases),
        result=str(work / f"{kind}.result.json"),
        worst=str(worst),
        tolerances=tolerances,
    )
    job_path.write_bytes(msgspec.json.encode(job))
    Path(job.result).unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "export.numeric.worker", str(job_path)],
            capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StepError(step, f"the fresh process did not finish within {DEADLINE_S:.0f} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StepError(step, f"the fresh process ended with {done.returncode}: {last}")
    result = msgspec.json.decode(Path(job.result).read_bytes(), type=Result)
    if result.error:
        raise StepError(step, result.error)
    if result.refusals:
        first = result.refusals[0]
        more = f" (and {len(result.refusals) - 1} more)" if len(result.refusals) > 1 else ""
        meaning = "differs from eager PyTorch" if kind == "parity" else "depends on the other rows of its batch"
        raise StepError(
            step,
            f"output {first.output!r} {meaning} in case {first.case}: {first.reason}{more}",
            {"worst": worst},
        )
    return result
