"""The fresh process: runs the final bytes with ONNX Runtime, never having seen torch.

`python -m export.numeric.worker JOB.json` writes its result beside the job. A process of its own means that nothing
that the exporter left in memory can make a broken file look right, and that a crash of the runtime is survived.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from export.numeric import cases as case_file
from export.numeric.compare import compare, worse
from export.numeric.tolerance import Tolerance
from export.state import Observed


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: `parity` against the references, or `independence` of rows from the batch they are in."""

    kind: Literal["parity", "independence"]
    model: str
    cases: str
    result: str
    worst: str
    tolerances: dict[str, Tolerance]
    providers: list[str] = msgspec.field(default_factory=lambda: ["CPUExecutionProvider"])


class Refusal(msgspec.Struct, frozen=True):
    """One output of one case that is outside its tolerance."""

    case: str
    output: str
    reason: str
    row: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`error` is set when the runtime refused the file or a case; then nothing was judged."""

    observed: dict[str, Observed] = msgspec.field(default_factory=dict)
    refusals: list[Refusal] = msgspec.field(default_factory=list)
    cases: int = 0
    error: str = ""


def main(job_path: str) -> int:
    """Run the job; 0 whenever a result was written, whatever it says."""
    job = msgspec.json.decode(Path(job_path).read_bytes(), type=Job)
    Path(job.result).write_bytes(msgspec.json.encode(run(job)))
    return 0


def run(job: Job) -> Result:
    """Judge every case of the job."""
    import onnxruntime as ort  # noqa: PLC0415  (the parent never needs it)

    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(job.model, options, providers=job.providers)
    except Exception as error:  # noqa: BLE001  (the runtime's exceptions share no base but Exception)
        return Result(error=f"ONNX Runtime refuses the file: {_first_line(error)}")
    names = [output.name for output in session.get_outputs()]
    all_cases = case_file.load(Path(job.cases))
    observed: dict[str, Observed] = {}
    refusals: list[Refusal] = []
    worst: dict[str, Any] = {}
    judged = 0
    for case, (inputs, reference) in all_cases.items():
        try:
            if job.kind == "parity":
                pairs = [dict(zip(names, session.run(names, inputs), strict=True))], [reference], [inputs]
            elif len(next(iter(inputs.values()))) >= 2:
                pairs = _rows_alone(session, names, inputs)
            else:
                continue
        except Exception as error:  # noqa: BLE001
            return Result(error=f"case {case}: ONNX Runtime fails: {_first_line(error)}", observed=observed)
        judged += 1
        for actual, expected, given in zip(*pairs, strict=True):
            for name in names:
                if name not in expected:
                    return Result(error=f"the graph has an output {name!r} that eager PyTorch does not give")
                outcome = compare(case, actual[name], expected[name], job.tolerances[name])
                observed[name] = worse(observed.get(name), outcome.observed)
                if outcome.reason:
                    refusals.append(Refusal(case, name, outcome.reason, outcome.worst_row))
                    worst = worst or _worst(given, name, actual[name], expected[name], outcome.worst_row)
    if worst:
        np.savez(job.worst, **worst)
    return Result(observed=observed, refusals=refusals[:32], cases=judged)


def _rows_alone(session: Any, names: list[str], inputs: case_file.Tensors) -> tuple[Any, Any, Any]:
    together = dict(zip(names, session.run(names, inputs), strict=True))
    rows = range(min(len(next(iter(inputs.values()))), 4))
    alone, expected, given = [], [], []
    for row in rows:
        single = {name: values[row : row + 1] for name, values in inputs.items()}
        alone.append(dict(zip(names, session.run(names, single), strict=True)))
        expected.append({name: values[row : row + 1] for name, values in together.items()})
        given.append(single)
    return alone, expected, given


def _worst(inputs: case_file.Tensors, output: str, actual: Any, expected: Any, row: int) -> dict[str, Any]:
    rows = len(next(iter(inputs.values())))
    kept: dict[str, Any] = {
        f"input.{name}": values[row : row + 1] if len(values) == rows else values for name, values in inputs.items()
    }
    for label, values in (("actual", actual), ("expected", expected)):
        aligned = values.ndim and len(values) == rows
        kept[f"{label}.{output}"] = values[row : row + 1] if aligned else values
    return kept


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:400]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
