"""torch -> ONNX with a named batch dimension and the model's own names for inputs and outputs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import Step, StepError
from export.exportable import BATCH, Axis, Exportable
from export.graph import names


class _Flat(nn.Module):
    """The user's module with positional inputs and a tuple of outputs, so that no name passes through the exporter."""

    def __init__(self, inner: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self.input_names = tuple(inputs)
        self.train(mode=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        from export.load.torch_model import call, flatten  # noqa: PLC0415  (traced, not imported at load)

        return tuple(value for _, value in flatten(call(self.inner, dict(zip(self.input_names, inputs, strict=True)))))


def write(exportable: Exportable, outputs: Sequence[str], path: Path, *, opset: int, max_batch: int) -> None:
    """Write `path`; StepError(EXPORT) carries the exporter's own reason."""
    flat = _Flat(exportable.module, list(exportable.inputs))
    shapes = (tuple(_shapes(exportable, max_batch)),)
    _save(
        flat,
        list(exportable.inputs),
        outputs,
        path,
        opset,
        args=tuple(exportable.inputs.values()),
        dynamic_shapes=shapes,
    )


def write_program(program: Any, inputs: Sequence[str], outputs: Sequence[str], path: Path, *, opset: int) -> None:
    """The same for a saved torch.export program, whose dynamic dimensions are its own."""
    _save(program, inputs, outputs, path, opset)


def _save(model: Any, inputs: Sequence[str], outputs: Sequence[str], path: Path, opset: int, **options: Any) -> None:
    import onnx_ir  # noqa: PLC0415

    with _quiet():
        try:
            program = torch.onnx.export(model, dynamo=True, opset_version=opset, verbose=False, **options)
        except Exception as error:
            raise StepError(Step.EXPORT, f"torch.onnx.export refuses the model: {_reason(error)}") from error
    if program is None:
        raise StepError(Step.EXPORT, "torch.onnx.export returned nothing")
    graph: Any = program.model
    names.rename(graph, list(inputs), list(outputs))
    onnx_ir.save(graph, path)


def _shapes(exportable: Exportable, max_batch: int) -> Iterator[dict[int, Any]]:
    symbols: dict[str, Any] = {BATCH: torch.export.Dim(BATCH, min=1, max=max(max_batch, _rows(exportable)))}

    def symbol(axis: Axis) -> Any:
        if axis.name == BATCH:
            raise StepError(Step.EXPORT, f"a dynamic axis may not be called {BATCH!r}: that is dimension 0")
        return symbols.setdefault(axis.name, torch.export.Dim(axis.name, min=axis.low, max=axis.high))

    for name in exportable.inputs:
        yield {0: symbols[BATCH], **{dim: symbol(axis) for dim, axis in exportable.axes.get(name, {}).items()}}


def _rows(exportable: Exportable) -> int:
    return int(next(iter(exportable.inputs.values())).shape[0])


def _reason(error: BaseException) -> str:
    """The innermost cause's first useful line: the exporter wraps it in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:600]}" if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about optional packages out of our output; what matters we check ourselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
