"""A real Triton's answers against the references."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from export.errors import ExportError
from export.numeric import cases as case_file
from export.numeric.compare import compare, worse
from export.numeric.tolerance import MODES, Tolerance
from export.serving import proto
from export.serving.client import Triton, TritonError, numpy_type
from export.state import Observed

if TYPE_CHECKING:
    from export.publish.manifest import Manifest

Array = npt.NDArray[np.generic]
READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a Triton did with the cases; `reason` is empty when every answer is within tolerance."""

    observed: dict[str, Observed]
    cases: int
    devices: tuple[str, ...]
    reason: str


def answers(
    triton: Triton, name: str, version: int, cases: Path, tolerances: Mapping[str, Tolerance], most: int
) -> Served:
    """Run up to `most` cases and compare. On a GPU the fp32 tolerances widen to those of TF32, which ORT uses there."""
    config = triton.config(name, version)
    devices = tuple(sorted({group.get("kind", "") for group in config.get("instance_group", [])}))
    limits = {output: _on_device(limit, "KIND_GPU" in devices) for output, limit in tolerances.items()}
    observed: dict[str, Observed] = {}
    loaded = case_file.load(cases)
    chosen = list(loaded)[:most]
    for case in chosen:
        inputs, reference = loaded[case]
        actual = triton.infer(name, version, {key: _as_sent(values) for key, values in inputs.items()})
        if missing := set(reference) - set(actual):
            return Served(observed, len(chosen), devices, f"outputs {sorted(missing)} are not served")
        for output, expected in reference.items():
            outcome = compare(case, actual[output], _as_sent(expected), limits[output])
            observed[output] = worse(observed.get(output), outcome.observed)
            if outcome.reason:
                reason = f"Triton's output {output!r} differs in case {case}: {outcome.reason}"
                return Served(observed, len(chosen), devices, reason)
    return Served(observed, len(chosen), devices, "")


def serves(triton: Triton, name: str, served: Collection[int], asked: Mapping[int, Manifest | None]) -> None:
    """Have Triton load `name`; TritonError unless it then serves the versions `served`, no others, and `asked` answer.

    Each of `asked` gets one row: what its manifest knows of each input, zeros where it knows nothing.
    """
    triton.load(name)
    triton.await_only(name, served, READY_S)
    for version, record in asked.items():
        told = triton.metadata(name, version)
        inputs = {entry["name"]: _row(entry, record) for entry in told["inputs"]}
        sequence = {"sequence_id": 1, "sequence_start": True, "sequence_end": True}
        stateful = "sequence_batching" in triton.config(name, version)
        actual = triton.infer(name, version, inputs, sequence if stateful else None)
        if missing := {entry["name"] for entry in told["outputs"]} - set(actual):
            raise TritonError(f"{triton.url}: {name} version {version} answers without {sorted(missing)}")
        for output, values in actual.items():
            if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
                raise TritonError(f"{triton.url}: {name} version {version} answers NaN in {output!r}")


def _row(entry: Mapping[str, Any], record: Manifest | None) -> Array:
    name, kind = entry["name"], numpy_type(entry["datatype"])
    axes = record.axes.get(name, {}) if record else {}
    shape = [size if size >= 0 else axes[at].low if at in axes else 1 for at, size in enumerate(entry["shape"])]
    seen = record.reference.get(name) if record else None
    if kind == "object":
        return np.full(shape, b"", dtype=object)
    usual = 0.0 if seen is None else seen.mean if np.issubdtype(kind, np.floating) else seen.low
    return np.full(shape, usual).astype(kind)


def lend(triton: Triton, name: str, config_text: str, model: Path) -> None:
    """Load a model into a running Triton under `name` from bytes in the request, touching no repository."""
    size = model.stat().st_size
    if size > triton.load_limit:
        raise ExportError(f"{size // 2**20} MiB do not fit into a load request; use --serve-check local, or off")
    message: Any = proto.from_text(config_text, "config.pbtxt")
    message.name = name
    files = {f"1/{message.default_model_filename}": model.read_bytes()}
    triton.load(name, json.dumps(proto.to_dict(message)), files)


def _as_sent(values: Array) -> Array:
    """Rows of rank 0 travel as [n, 1]: see `reshape` in config.pbtxt."""
    return values.reshape(-1, 1) if values.ndim == 1 else values


def _on_device(limit: Tolerance, gpu: bool) -> Tolerance:
    wider = MODES["tf32"]
    if not gpu:
        return limit
    return Tolerance(
        rtol=max(limit.rtol, wider.rtol),
        k=max(limit.k, wider.k),
        cosine=min(limit.cosine, wider.cosine),
        mismatch=limit.mismatch,
    )
