"""The steps that turn final bytes into a served version."""

from __future__ import annotations

import datetime
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import ExportError, Step, StepError
from export.graph import files
from export.graph.structure import has_operator
from export.numeric import cases as case_file
from export.numeric.tolerance import tolerances
from export.publish import manifest as manifests
from export.publish import policy as policies
from export.publish import reference
from export.publish.repository import MANIFEST
from export.run import Outcome, Run
from export.serving import proto
from export.serving.config import DynamicBatching, ModelConfig, Warmup, tensor
from export.serving.overlay import merge
from export.state import TensorInfo


def config(run: Run) -> Outcome:
    """Build config.pbtxt and hold it against what the repository already serves."""
    request, state = run.request, run.state
    plan = state.tensorrt.get("plan")
    model = ModelConfig(
        name=request.name,
        backend="tensorrt" if plan else "onnxruntime",
        max_batch_size=request.max_batch,
        inputs=tuple(tensor(info) for info in state.inputs),
        outputs=tuple(tensor(info) for info in state.outputs),
        instance_kind="gpu" if request.tensorrt != "off" else request.instances,
        instance_count=request.instance_count,
        dynamic_batching=DynamicBatching(
            max_queue_delay_us=request.queue_delay_us,
            max_queue_size=request.queue_size,
            queue_timeout_us=request.queue_timeout_us,
            preferred_batch_sizes=request.preferred_batch_sizes,
        ),
        warmup=_warmup(run),
        parameters={} if plan or request.instances == "cpu" else _runtime_parameters(run),
        optimization=state.tensorrt.get("optimization", {}),
        response_cache=request.response_cache,
        default_model_filename=plan or run.final.name,
        cc_model_filenames={state.tensorrt["capability"]: plan} if plan else {},
    )
    message = model.to_proto()
    overlaid = merge(message, request.overlay) if request.overlay else []
    state.config = proto.to_text(message)
    _agree(run, message)
    return Outcome({"max_batch_size": message.max_batch_size, "instances": request.instances, "overlay": overlaid})


def publish(run: Run) -> Outcome:
    """Stage, rename in, edit the policy; under the model's lock."""
    request, state, repository = run.request, run.state, run.repository
    run.refuse_missing(Step.PUBLISH, run.final)
    with repository.lock(request.name, request.lock_timeout_s):
        message = proto.from_text(state.config, "the new config.pbtxt")
        run.config_before = repository.config(request.name)
        current = _agree(run, message)
        parts = [part for path in run.published for part in files.parts(path)]
        hashes = {str(part.relative_to(run.work)): files.sha256(part) for part in parts}
        existing = _same(run, hashes)
        if existing is not None:
            state.version = existing
            promoted = _promote(run, existing)
            run.config_after = repository.config(request.name)
            return Outcome(
                {"version": existing, "promoted": promoted}, f"these bytes are version {existing} already", skipped=True
            )
        taken = {*repository.versions(request.name), *(current[1].served if current else ())}
        version = request.version or max(taken, default=0) + 1
        if version in taken:
            raise StepError(
                Step.PUBLISH, f"{request.name} version {version} exists and holds other bytes; versions never change"
            )
        text = _config_text(run, message, current, version)
        staged = repository.staging(request.name)
        try:
            for part in parts:
                place = staged / part.relative_to(run.work)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(part, place)
            record = _manifest(run, version, hashes, text or repository.config(request.name) or "")
            (staged / MANIFEST).write_bytes(manifests.encode(record))
            repository.add_version(request.name, version, staged, text)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        state.version, run.added, run.config_after = version, True, repository.config(request.name)
        return Outcome({"version": version, "promoted": text is not None}, f"{request.name} version {version}")


def _promote(run: Run, version: int) -> bool:
    text = run.repository.config(run.request.name)
    if not run.request.promote or text is None:
        return False
    message, policy = policies.read(text, f"{run.request.name}/config.pbtxt")
    changed = policy.with_version(version)
    if changed is policy:
        return False
    run.repository.write_config(run.request.name, policies.write(message, changed))
    return True


def _config_text(run: Run, message: Any, current: tuple[Any, policies.Policy] | None, version: int) -> str | None:
    if current is None:
        return policies.write(message, policies.Policy((version,)))
    served, policy = current
    if run.request.reconfigure:
        served = message
    elif not run.request.promote:
        return None
    return policies.write(served, policy.with_version(version) if run.request.promote else policy)


def _agree(run: Run, message: Any) -> tuple[Any, policies.Policy] | None:
    """The repository's configuration and policy; StepError when the new version does not fit beside its siblings."""
    text = run.repository.config(run.request.name)
    if text is None:
        return None
    where = f"{run.request.name}/config.pbtxt"
    current, policy = policies.read(text, where)
    differing = policies.differences(current, message)
    changed_io = [field for field in differing if field in ("input", "output", "backend")]
    if changed_io:
        raise StepError(
            Step.CONFIG,
            f"{' and '.join(changed_io)} differ from the versions of {run.request.name} that are there; "
            "clients of the live versions would break: publish it under another name",
        )
    if differing and not run.request.reconfigure:
        raise StepError(
            Step.CONFIG,
            f"{', '.join(differing)} differ from {where}, and a change there reloads every version: "
            "give the same options, or --reconfigure to mean it",
        )
    return current, policy


def _same(run: Run, hashes: dict[str, str]) -> int | None:
    asked = run.request.version
    candidates = [asked] if asked is not None else run.repository.versions(run.request.name)
    for version in candidates:
        try:
            record = manifests.decode(run.repository.read(run.request.name, version, MANIFEST), "manifest")
        except (OSError, ExportError):
            continue
        if {path: digest for path, digest in record.files.items() if path in hashes} == hashes:
            return version
    return None


def _manifest(run: Run, version: int, hashes: dict[str, str], config_text: str) -> manifests.Manifest:
    request, state = run.request, run.state
    return manifests.Manifest(
        name=request.name,
        version=version,
        spec=request.spec,
        source=state.source,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        precision=request.precision,
        target={"triton": run.target.release, "onnxruntime": run.target.onnxruntime, "tensorrt": run.target.tensorrt},
        opset=request.effective_opset,
        max_batch=request.max_batch,
        files=hashes,
        graph_sha256=files.sha256(files.graph_file(run.final)),
        weights_sha256=state.weights_sha256,
        config_sha256=hashlib.sha256(config_text.encode()).hexdigest(),
        git=manifests.git_state(Path.cwd()),
        tools=manifests.tools(),
        inputs=state.inputs,
        outputs=state.outputs,
        axes=state.axes,
        cases=state.cases,
        samples_are=state.samples_are,
        seeds=state.seeds,
        metrics=state.metrics,
        labels=state.labels,
        tolerances=tolerances(request.precision, [t.name for t in state.outputs], request.tolerances),
        observed=state.observed,
        fp32_nodes=state.fp32_nodes,
        tensorrt=state.tensorrt,
        reference=_reference(run),
        steps=state.reports,
    )


def _reference(run: Run) -> dict[str, reference.Distribution]:
    """Over the samples where there are any, else over the largest batch."""
    loaded = case_file.load(run.cases)
    chosen = [name for name in loaded if name.startswith("samples-")] or [f"batch-{run.request.max_batch}"]
    found: dict[str, reference.Distribution] = {}
    for side in (0, 1):
        for name in loaded[chosen[0]][side]:
            flat = [loaded[case][side][name] for case in chosen]
            joined = (
                np.concatenate([part.reshape(len(part), -1).reshape(-1) for part in flat]) if len(flat) > 1 else flat[0]
            )
            found |= reference.distributions({name: joined}, run.state.samples_are)
    return found


def _runtime_parameters(run: Run) -> dict[str, str]:
    """Convolutions choose cuDNN's algorithm by its heuristic: DEFAULT is slow, EXHAUSTIVE times every new shape.

    As a top-level parameter, because the backend overwrites it inside the cuda accelerator (server issue 8808).
    """
    return {"cudnn_conv_algo_search": "1"} if has_operator(run.final, "Conv") else {}


def _warmup(run: Run) -> tuple[Warmup, ...]:
    shapes = {info.name: tuple(_concrete(run, info)) for info in run.state.inputs}
    sizes = sorted({1, run.request.max_batch})
    return tuple(Warmup(name=f"batch-{size}", batch_size=size, shapes=shapes) for size in sizes)


def _concrete(run: Run, info: TensorInfo) -> list[int]:
    axes = run.state.axes.get(info.name, {})
    dims = [dim if isinstance(dim, int) else axes[at].low if at in axes else 1 for at, dim in enumerate(info.shape)][1:]
    return dims or [1]
