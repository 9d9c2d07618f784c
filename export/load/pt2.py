"""SPEC FILE.pt2: a program that torch.export saved; its dynamic dimensions are fixed in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.errors import Step, StepError
from export.exportable import BATCH
from export.graph import to_onnx
from export.load.loaded import Array, Card
from export.load.torch_model import flatten, refuse_small_batch
from export.state import AxisInfo

_OPEN_END = 4  # how many times the example's own size stands for "no upper bound"


class Program:
    """A saved program with the example inputs that it carries; `samples` are real rows, by input name."""

    def __init__(self, path: Path, samples: Mapping[str, Array] | None = None) -> None:
        self._samples = samples
        try:
            self._program = torch.export.load(path)
        except Exception as error:
            raise StepError(Step.LOAD, f"{path}: torch.export cannot load it: {_line(error)}") from error
        if self._program.example_inputs is None:
            raise StepError(Step.LOAD, f"{path} carries no example inputs; save it again with torch.export.save")
        positional, keyword = self._program.example_inputs
        names = list(self._program.graph_signature.user_inputs)
        self._keywords = list(keyword)
        tensors = [*positional, *keyword.values()]
        if len(tensors) != len(names) or not all(isinstance(value, torch.Tensor) for value in tensors):
            raise StepError(
                Step.LOAD, f"{path}: every input must be one tensor, found {[type(v).__name__ for v in tensors]}"
            )
        self._inputs = {str(name): value for name, value in zip(names, tensors, strict=True)}
        refuse_small_batch(self._inputs)
        self._module: Any = self._program.module()
        with torch.inference_mode():
            self._outputs = [name for name, _ in flatten(self._call(self._inputs))]
        self._axes = self._dynamic()

    @property
    def card(self) -> Card:
        """Examples and the axes that the program was exported with."""
        examples = {name: value.detach().numpy() for name, value in self._inputs.items()}
        return Card(examples=examples, axes=self._axes, samples=self._samples)

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the program answers."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in inputs.items()}
        with torch.inference_mode():
            return {name: value.numpy().copy() for name, value in flatten(self._call(tensors))}

    def write_onnx(self, path: Path, opset: int, max_batch: int) -> None:
        """Through the dynamo exporter, dimensions as saved."""
        to_onnx.write_program(self._program, list(self._inputs), self._outputs, path, opset=opset)

    def weights_sha256(self) -> str:
        """Over the state dict, sorted by name."""
        digest = hashlib.sha256()
        for name, value in sorted(self._program.state_dict.items()):
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _call(self, inputs: Mapping[str, Any]) -> Any:
        values = list(inputs.values())
        split = len(values) - len(self._keywords)
        return self._module(*values[:split], **dict(zip(self._keywords, values[split:], strict=True)))

    def _dynamic(self) -> dict[str, dict[int, AxisInfo]]:
        axes: dict[str, dict[int, AxisInfo]] = {}
        values = {node.name: node.meta["val"] for node in self._program.graph.nodes if node.op == "placeholder"}
        for name, example in self._inputs.items():
            for dim, size in enumerate(values[name].shape):
                if dim == 0 or isinstance(size, int):
                    continue
                symbol = size.node.expr
                bounds = self._program.range_constraints.get(symbol)
                low, high = (
                    max(_finite(bounds, "lower", 2), 1),
                    _finite(bounds, "upper", example.shape[dim] * _OPEN_END),
                )
                axes.setdefault(name, {})[dim] = AxisInfo(f"{symbol}" if str(symbol) != BATCH else "axis", low, high)
        return axes


def _finite(bounds: Any, side: str, otherwise: int) -> int:
    try:
        value = int(getattr(bounds, side))
    except (AttributeError, TypeError, ValueError, OverflowError):
        return otherwise
    return min(value, otherwise) if side == "upper" else value


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
