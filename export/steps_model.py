"""The steps that turn a SPEC into final, judged bytes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from export.errors import ExportError, Step, StepError
from export.graph import files
from export.load.loaded import Array
from export.load.samples import read_samples
from export.numeric import cases as case_file
from export.numeric.fresh import judge
from export.numeric.tolerance import tolerances
from export.run import Outcome, Run
from export.state import TensorInfo

_SEED = 7
_FREE_BYTES = 64 * 1024 * 1024


def preflight(run: Run) -> Outcome:
    """Everything that can be refused before anything slow happens."""
    target, request = run.target, run.request
    if request.effective_opset > target.max_opset:
        raise StepError(
            Step.PREFLIGHT,
            f"opset {request.effective_opset} is above {target.max_opset}, the newest that Triton {target.release} "
            f"(ONNX Runtime {target.onnxruntime}) loads",
        )
    for package, remedy in (("onnx", "export"), ("onnx_ir", "export"), ("onnxruntime", "cpu")):
        if importlib.util.find_spec(package) is None:
            raise StepError(Step.PREFLIGHT, f"{package} is not installed: pip install 'sluice[{remedy}]'")
    free = shutil.disk_usage(run.work).free
    if free < _FREE_BYTES:
        raise StepError(
            Step.PREFLIGHT, f"{free // 2**20} MiB are free where the repository lies; {_FREE_BYTES // 2**20} are needed"
        )
    return Outcome({"target": target.release, "onnxruntime": target.onnxruntime, "opset": request.effective_opset,
                    "onnxruntime_here": _onnxruntime()})  # fmt: skip


def load(run: Run) -> Outcome:
    """Load the model, build the cases, and ask the fp32 model for the references."""
    model = run.model()
    card, state = model.card, run.state
    state.axes = {name: dict(dims) for name, dims in card.axes.items()}
    rows, state.samples_are = _rows(run, card.examples, card.samples)
    for name, example in card.examples.items():
        if name not in rows or rows[name].ndim != example.ndim or rows[name].dtype != example.dtype:
            raise StepError(
                Step.LOAD, f"samples do not fit input {name!r}: {example.dtype} of rank {example.ndim} is needed"
            )
    built = case_file.build(
        {name: rows[name] for name in card.examples},
        state.axes,
        run.request.max_batch,
        real=state.samples_are != "synthetic",
    )
    references = []
    for case in built:
        try:
            answer = model.reference(case.inputs)
        except StepError:
            raise
        except Exception as error:
            raise StepError(
                Step.LOAD, f"the model fails on case {case.name}: {type(error).__name__}: {error}"
            ) from error
        for name, values in answer.items():
            if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
                raise StepError(Step.LOAD, f"eager PyTorch gives NaN in output {name!r} on case {case.name}")
        references.append(answer)
    case_file.save(run.cases, built, references)
    state.cases = [case.name for case in built]
    state.inputs = [TensorInfo(name, str(v.dtype), list(v.shape)) for name, v in card.examples.items()]
    state.outputs = [TensorInfo(name, str(v.dtype), list(v.shape)) for name, v in references[0].items()]
    state.metrics, state.seeds, state.labels = dict(card.metrics), {**card.seeds, "cases": _SEED}, dict(card.labels)
    state.weights_sha256, state.batch_independent = model.weights_sha256(), card.batch_independent
    return Outcome({"inputs": len(state.inputs), "outputs": len(state.outputs), "cases": len(built), **state.metrics})


def export(run: Run) -> Outcome:
    """torch.export, dynamo, names."""
    _clear(run.raw)
    run.model().write_onnx(run.raw, run.request.effective_opset, run.request.max_batch)
    return Outcome({"bytes": files.size(run.raw)})


def strip(run: Run) -> Outcome:
    """Metadata and documentation out."""
    from export.graph import strip as stripping  # noqa: PLC0415

    run.refuse_missing(Step.STRIP, run.raw)
    _clear(run.stripped)
    return Outcome(dict(stripping.strip(run.raw, run.stripped, run.target.max_ir)))


def structure(run: Run) -> Outcome:
    """The checker, versions, training nodes, names, one batch symbol everywhere."""
    from export.graph import structure as checking  # noqa: PLC0415

    run.refuse_missing(Step.STRUCTURE, run.stripped)
    inputs, outputs = run.names()
    run.state.inputs, run.state.outputs = checking.check(run.stripped, inputs, outputs, run.target, run.state.axes)
    return Outcome({tensor.name: f"{tensor.dtype}{tensor.shape}" for tensor in [*run.state.inputs, *run.state.outputs]})


def precision(run: Run) -> Outcome:
    """fp32 stays as traced; fp16 keeps float32 outside, and inside where half precision cannot hold the numbers."""
    run.refuse_missing(Step.PRECISION, run.stripped)
    _clear(run.final)
    if run.request.precision == "fp32":
        if run.stripped.is_dir():
            shutil.copytree(run.stripped, run.final)
        else:
            os.link(run.stripped, run.final)  # the same bytes: no need to write hundreds of megabytes twice
        return Outcome(message="fp32 as traced", skipped=True)
    return _half(run)


def _half(run: Run) -> Outcome:
    from export.graph import fp16  # noqa: PLC0415

    cases = case_file.load(run.cases)
    refusal: StepError | None = None
    for keep in fp16.attempts(run.stripped, [inputs for inputs, _ in list(cases.values())[:3]]):
        _clear(run.final)
        halves = fp16.convert(run.stripped, run.final, keep)
        run.state.fp32_nodes = keep
        try:
            _judged(run, Step.PRECISION, "parity", "fp16")
        except StepError as error:
            refusal = error
        else:
            sizes = {"bytes_before": files.size(run.stripped), "bytes_after": files.size(run.final)}
            return Outcome({"fp16_nodes": halves, "fp32_nodes": len(keep), **sizes})
    assert refusal is not None
    raise refusal


def parity(run: Run) -> Outcome:
    """The final bytes against the references, in a fresh process."""
    return _judged(run, Step.PARITY, "parity", run.request.precision)


def independence(run: Run) -> Outcome:
    """Row i alone equals row i inside a batch."""
    if not run.state.batch_independent:
        return Outcome(message="the model declares that rows of a batch belong together", skipped=True)
    return _judged(run, Step.INDEPENDENCE, "independence", run.request.precision)


def tensorrt(run: Run) -> Outcome:
    """A plan for the GPU here, or shape profiles for the ONNX Runtime backend's own TensorRT accelerator."""
    from export.graph import tensorrt as engines  # noqa: PLC0415

    request, state = run.request, run.state
    if request.tensorrt == "off":
        return Outcome(message="not asked for", skipped=True)
    if request.instances == "cpu":
        raise StepError(Step.TENSORRT, "TensorRT needs instances on a GPU, and --instances cpu was given")
    shapes = engines.profiles(state.inputs, state.axes, request.max_batch)
    if request.tensorrt == "plan":
        model = files.graph_file(run.final)
        state.tensorrt = {**engines.build(model, run.work, shapes, target=run.target), "verified": False}
        return Outcome(state.tensorrt, "built, not verified: only a served check on this GPU can do that")
    options = engines.accelerator(shapes, fp16=request.precision == "fp16", target=run.target)
    state.tensorrt = {"optimization": options, "verified": False}
    return Outcome({"profiles": len(shapes)}, "configured, not verified: no engine was built here")


def _judged(run: Run, step: Step, kind: Literal["parity", "independence"], mode: str) -> Outcome:
    run.refuse_missing(step, run.final)
    outputs = run.names()[1]
    limits = tolerances(mode, outputs, run.request.tolerances)
    result = judge(step, kind, model=files.graph_file(run.final), cases=run.cases, work=run.work, tolerances=limits)
    run.state.observed[kind] = result.observed
    summary = {name: f"max {seen.max_abs:.3g}, {seen.excess:.2g} of allowed" for name, seen in result.observed.items()}
    return Outcome({"cases": result.cases, **summary})


def _rows(
    run: Run, examples: Mapping[str, Array], samples: Mapping[str, Array] | None
) -> tuple[dict[str, Array], Literal["user", "model", "synthetic"]]:
    given = read_samples(run.request.samples)
    if given is not None:
        return given, "user"
    if samples is not None:
        return dict(samples), "model"
    return case_file.synthetic(examples, max(64, run.request.max_batch), _SEED), "synthetic"


def _clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _onnxruntime() -> str:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    raise ExportError("no ONNX Runtime is installed")
