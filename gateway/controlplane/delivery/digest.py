"""What one sampled answer says: its predictions, and whether its copy agrees. Pure; runs in a thread of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.controlplane.delivery.tensors import decode
from gateway.core.compare import Comparison, Tensor, compare
from gateway.core.drift import bin_answer
from gateway.core.rollout_policy import DriftGate, OutputRule
from gateway.core.route import Predictions
from gateway.telemetry.records import Sample

_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """How the answers of one route are looked at.

    Attributes:
        predictions: where they hold a prediction for feedback.
        drift: how predictions are binned.
        rules: how a copy must agree.
    """

    predictions: Predictions | None = None
    drift: DriftGate | None = None
    rules: Sequence[OutputRule] = (OutputRule(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What was found in one sample.

    Attributes:
        labels: the prediction of each row, as text; empty without any.
        bins: predictions by bin, 1 in all.
        comparison: of original and copy; None without a copy, or when the original itself is no good answer.
        problem: why nothing could be read, empty when all could.
    """

    sample: Sample
    labels: tuple[str, ...] = ()
    bins: Mapping[int, float] | None = None
    comparison: Comparison | None = None
    problem: str = ""


def digest(sample: Sample, lens: Lens) -> Digest:
    """Decodes what is needed of a sample; never raises: an answer that cannot be read is a problem, not an end."""
    if sample.original.status != _OK:
        return Digest(sample=sample)
    try:
        tensors = decode(sample.original)
    except ValueError as error:
        return Digest(sample=sample, problem=str(error))
    labels: tuple[str, ...] = ()
    bins: Mapping[int, float] | None = None
    problem = ""
    try:
        if lens.predictions is not None:
            labels = _labels(_output(tensors, lens.predictions.output), lens.predictions.kind)
        if lens.drift is not None:
            bins = bin_answer(_output(tensors, lens.drift.output).values, lens.drift)
    except ValueError as error:
        problem = str(error)
    comparison = _compare(tensors, sample, lens) if sample.copy is not None else None
    return Digest(sample=sample, labels=labels, bins=bins, comparison=comparison, problem=problem)


def _compare(original: Sequence[Tensor], sample: Sample, lens: Lens) -> Comparison:
    copy = sample.copy
    assert copy is not None
    if copy.status != _OK:
        reason = f"the copy failed with status {copy.status}" if copy.status else "the copy got no answer"
        return Comparison(agree=False, reason=reason)
    try:
        return compare(original, decode(copy), lens.rules)
    except ValueError as error:
        return Comparison(agree=False, reason=f"the copy's answer makes no sense: {error}")


def _output(tensors: Sequence[Tensor], name: str) -> Tensor:
    found = next((tensor for tensor in tensors if tensor.name == name), None)
    if found is None:
        raise ValueError(f"the answer has no output {name!r} (it has: {', '.join(t.name for t in tensors) or 'none'})")
    return found


def _labels(tensor: Tensor, kind: str) -> tuple[str, ...]:
    values = np.asarray(tensor.values)
    if kind == "label":
        return tuple(
            v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.reshape(-1).tolist()
        )
    if values.ndim == 0 or values.size == 0 or values.dtype.kind not in "biuf":
        raise ValueError(f"output {tensor.name!r} holds no scores (shape {values.shape}, dtype {values.dtype})")
    return tuple(str(k) for k in values.reshape(-1, values.shape[-1]).argmax(axis=-1).tolist())
