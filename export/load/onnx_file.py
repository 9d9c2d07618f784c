"""SPEC FILE.onnx: a finished graph. Its own answers, without the runtime's optimisations, are the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import Step, StepError
from export.exportable import BATCH
from export.load.loaded import Array, Card
from export.state import AxisInfo

_EXAMPLE_ROWS = 3
_EXAMPLE_LENGTH = 8


class OnnxFile:
    """An ONNX file as it was given."""

    def __init__(self, path: Path, samples: Mapping[str, Array] | None = None) -> None:
        import onnxruntime as ort  # noqa: PLC0415

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise StepError(
                Step.LOAD, f"{path}: ONNX Runtime refuses it: {str(error).splitlines()[0][:300]}"
            ) from error
        self._path = path
        self._samples = samples

    @property
    def card(self) -> Card:
        """Examples made up from the declared shapes; integers are 0 or 1, so give --samples where that says little."""
        examples: dict[str, Array] = {}
        axes: dict[str, dict[int, AxisInfo]] = {}
        generator = np.random.default_rng(0)
        for value in self._session.get_inputs():
            shape = [_EXAMPLE_ROWS]
            for dim, size in enumerate(value.shape[1:], 1):
                if isinstance(size, int):
                    shape.append(size)
                    continue
                name = str(size) if size and size != BATCH else f"{value.name}_{dim}"
                axes.setdefault(value.name, {})[dim] = AxisInfo(name, 2, 4 * _EXAMPLE_LENGTH)
                shape.append(_EXAMPLE_LENGTH)
            examples[value.name] = _example(value.name, value.type, shape, generator)
        return Card(examples=examples, axes=axes, samples=self._samples)

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What ONNX Runtime answers with every optimisation off."""
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def write_onnx(self, path: Path, opset: int, max_batch: int) -> None:
        """The same graph, weights inside."""
        import onnx_ir  # noqa: PLC0415

        model = onnx_ir.load(self._path)
        onnx_ir.external_data.load_to_model(model)
        onnx_ir.save(model, path)

    def weights_sha256(self) -> str:
        """Over the initializers, sorted by name."""
        import onnx_ir  # noqa: PLC0415

        digest = hashlib.sha256()
        for name, value in sorted(onnx_ir.load(self._path).graph.initializers.items()):
            tensor = value.const_value
            if tensor is not None:
                digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
                digest.update(tensor.tobytes())
        return digest.hexdigest()


def _example(name: str, kind: str, shape: list[int], generator: np.random.Generator) -> Array:
    element = kind.removeprefix("tensor(").removesuffix(")")
    numpy_name = {"float": "float32", "double": "float64"}.get(element, element)
    if numpy_name == "string":
        return np.full(shape, "text", dtype=object)
    try:
        dtype = np.dtype(numpy_name)
    except TypeError:
        raise StepError(Step.LOAD, f"input {name!r} is {kind}, which cannot be served") from None
    if np.issubdtype(dtype, np.floating):
        return generator.normal(size=shape).astype(dtype)
    return generator.integers(0, 2, size=shape).astype(dtype)
