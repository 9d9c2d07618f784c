"""A torch module as the reference, with the refusals that belong before any export."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.errors import Step, StepError
from export.exportable import Exportable
from export.graph import to_onnx
from export.load.loaded import Array, Card
from export.state import AxisInfo


class TorchModel:
    """An Exportable that passed the checks of `load`."""

    def __init__(self, exportable: Exportable) -> None:
        _refuse_training(exportable.module)
        refuse_small_batch(exportable.inputs)
        self._exportable = exportable
        self._names = self._output_names()

    @property
    def card(self) -> Card:
        """Examples, dynamic axes and facts, as numpy."""
        given = self._exportable
        return Card(
            examples={name: value.detach().numpy() for name, value in given.inputs.items()},
            axes={
                name: {dim: AxisInfo(axis.name, axis.low, axis.high) for dim, axis in dims.items()}
                for name, dims in given.axes.items()
            },
            samples=given.samples,
            metrics=given.metrics,
            seeds=given.seeds,
            labels=given.labels,
            batch_independent=given.batch_independent,
        )

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What eager PyTorch answers."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in inputs.items()}
        with torch.inference_mode():
            result = call(self._exportable.module, tensors)
        flat = flatten(result)
        if len(flat) != len(self._names):
            raise StepError(Step.LOAD, f"the model gave {len(flat)} outputs where it gave {len(self._names)} before")
        return {name: value.numpy().copy() for name, (_, value) in zip(self._names, flat, strict=True)}

    def write_onnx(self, path: Path, opset: int, max_batch: int) -> None:
        """Through torch.export and the dynamo exporter."""
        to_onnx.write(self._exportable, self._names, path, opset=opset, max_batch=max_batch)

    def weights_sha256(self) -> str:
        """Over the state dict, sorted by name."""
        digest = hashlib.sha256()
        for name, value in sorted(self._exportable.module.state_dict().items()):
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _output_names(self) -> list[str]:
        with torch.inference_mode():
            flat = flatten(call(self._exportable.module, dict(self._exportable.inputs)))
        found = [name for name, _ in flat]
        wanted = self._exportable.outputs
        if wanted is None:
            return found
        if len(wanted) != len(found):
            raise StepError(Step.LOAD, f"outputs {list(wanted)} were declared, the model gives {len(found)}: {found}")
        named = [name for name in found if not name.startswith("output")]
        if named and set(named) != set(wanted):
            raise StepError(Step.LOAD, f"outputs {list(wanted)} were declared, the model names them {found}")
        return found if named else list(wanted)


def call(module: Any, inputs: Mapping[str, Tensor]) -> Any:
    """By keyword where forward has the names, else by position."""
    try:
        accepted = module.forward.__code__.co_varnames[: module.forward.__code__.co_argcount]
    except AttributeError:
        accepted = ()
    if all(name in accepted for name in inputs):
        return module(**inputs)
    return module(*inputs.values())


def flatten(result: Any) -> list[tuple[str, Tensor]]:
    """Names and tensors of what `forward` returned; dictionary keys are kept, None is left out."""
    if isinstance(result, Tensor):
        return [("output", result)]
    if isinstance(result, Mapping):
        pairs: Sequence[tuple[Any, Any]] = list(result.items())
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        pairs = list(zip(result._fields, result, strict=True))
    elif isinstance(result, tuple | list):
        pairs = [("output" if i == 0 else f"output_{i}", value) for i, value in enumerate(result)]
    else:
        raise StepError(
            Step.LOAD, f"forward returns {type(result).__name__}; only tensors, dicts and tuples of them can be served"
        )
    kept = [(str(name), value) for name, value in pairs if value is not None]
    for name, value in kept:
        if not isinstance(value, Tensor):
            raise StepError(Step.LOAD, f"output {name!r} is a {type(value).__name__}, not a tensor")
    if not kept:
        raise StepError(Step.LOAD, "forward returns no tensor")
    return kept


def _refuse_training(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise StepError(Step.LOAD, f"the SPEC gives a {type(module).__name__}, not an nn.Module")
    training = [name or "the model" for name, child in module.named_modules() if child.training]
    if training:
        raise StepError(
            Step.LOAD,
            f"in training mode: {', '.join(training[:4])}{' ...' if len(training) > 4 else ''}; "
            "dropout would stay in the graph: call .eval() in the factory",
        )
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.running_mean is None and _is_batch_norm(child):
            raise StepError(
                Step.LOAD,
                f"{name or type(child).__name__} normalises with the statistics of whatever batch it is given "
                "(track_running_stats=False): answers would depend on who shares the batch",
            )


def _is_batch_norm(child: nn.Module) -> bool:
    return isinstance(child, nn.modules.batchnorm._BatchNorm)


def refuse_small_batch(inputs: Mapping[str, Tensor]) -> None:
    """StepError unless all examples share one batch of two or more."""
    if not inputs:
        raise StepError(Step.LOAD, "the SPEC gives no example inputs")
    sizes = {name: (value.shape[0] if value.ndim else 0) for name, value in inputs.items()}
    if len(set(sizes.values())) != 1 or next(iter(sizes.values())) < 2:
        raise StepError(
            Step.LOAD,
            f"example inputs need one common batch of 2 or more in dimension 0 (a batch of 1 is baked in): {sizes}",
        )
