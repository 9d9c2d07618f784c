"""Does the file say what the target can load, and is the batch a batch everywhere?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.errors import Step, StepError
from export.graph import files
from export.graph.strip import traces
from export.state import AxisInfo, TensorInfo
from export.targets import Target

_DOMAINS = {"", "ai.onnx", "com.microsoft"}


def check(
    path: Path, inputs: list[str], outputs: list[str], target: Target, axes: Mapping[str, Mapping[int, AxisInfo]]
) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """The graph's inputs and outputs; StepError(STRUCTURE) names the first thing that is wrong.

    `axes` are the dimensions that the model declares dynamic, by input.
    """
    import onnx  # noqa: PLC0415

    graph_path = files.graph_file(path)
    try:
        onnx.checker.check_model(str(graph_path), full_check=True)
    except Exception as error:
        raise _wrong(f"the ONNX checker refuses it: {str(error).strip().splitlines()[0][:300]}") from error
    model = onnx.load(graph_path, load_external_data=False)
    _versions(model, target)
    _nodes(model)
    _no_traces(model)
    got_inputs = [_tensor(value) for value in model.graph.input]
    got_outputs = [_tensor(value) for value in model.graph.output]
    for kind, got, wanted in (("inputs", got_inputs, inputs), ("outputs", got_outputs, outputs)):
        if [tensor.name for tensor in got] != wanted:
            raise _wrong(f"{kind} are {[tensor.name for tensor in got]}, the model calls them {wanted}")
    _batch([*got_inputs, *got_outputs])
    _axes(got_inputs, axes)
    return got_inputs, got_outputs


def has_operator(path: Path, operator: str) -> bool:
    """Whether a node of this type is in the graph."""
    import onnx  # noqa: PLC0415

    model = onnx.load(files.graph_file(path), load_external_data=False)
    return any(node.op_type == operator for node in _all_nodes(model.graph))


def _versions(model: Any, target: Target) -> None:
    reader = f"Triton {target.release} (ONNX Runtime {target.onnxruntime})"
    if model.ir_version > target.max_ir:
        raise _wrong(f"IR version {model.ir_version}; {reader} reads up to {target.max_ir}")
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > target.max_opset:
            raise _wrong(f"opset {entry.version}; {reader} knows up to {target.max_opset}")


def _nodes(model: Any) -> None:
    local = {function.domain for function in model.functions}
    for node in _all_nodes(model.graph):
        if node.domain not in _DOMAINS | local:
            raise _wrong(f"node {node.name!r} is {node.domain}::{node.op_type}, which ONNX Runtime does not have")
        training = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        if training:
            raise _wrong(f"node {node.name!r} ({node.op_type}) is in training mode")
        if _drops_out(node):
            raise _wrong(f"node {node.name!r} is a {node.op_type}: the model was traced in training mode")
    for function in model.functions:
        if any(_drops_out(node) for node in function.node):
            raise _wrong(f"function {function.name!r} holds a Dropout: the model was traced in training mode")


def _no_traces(model: Any) -> None:
    """Source paths and lines ride in metadata and documentation: none may be left."""
    for carrier, _field in traces(model):
        name = getattr(carrier, "name", "") or "the model"
        raise _wrong(f"{name!r} still carries documentation or metadata, where exporters put source paths")


def _drops_out(node: Any) -> bool:
    # Since opset 12 a Dropout is the identity unless its third input says training_mode.
    return node.domain in ("", "ai.onnx") and node.op_type == "Dropout" and len(node.input) >= 3 and bool(node.input[2])


def _all_nodes(graph: Any) -> list[Any]:
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _all_nodes(attribute.g)
    return found


def _tensor(value: Any) -> TensorInfo:
    import onnx  # noqa: PLC0415

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise _wrong(f"{value.name!r} is a {kind}, only tensors can be served")
    tensor = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if tensor.elem_type == onnx.TensorProto.STRING:
        dtype = "object"
    if not tensor.HasField("shape"):
        raise _wrong(f"{value.name!r} has no shape")
    shape: list[int | str] = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim
    ]
    return TensorInfo(value.name, dtype, shape)


def _batch(tensors: list[TensorInfo]) -> None:
    firsts = {tensor.name: (tensor.shape[0] if tensor.shape else None) for tensor in tensors}
    fixed = {name: first for name, first in firsts.items() if not isinstance(first, str) or first == "?"}
    if fixed:
        listed = ", ".join(f"{name} ({'no dimension' if first is None else first})" for name, first in fixed.items())
        raise _wrong(f"dimension 0 is not the batch: {listed}; the batch was baked in or lost")
    if len(set(firsts.values())) > 1:
        raise _wrong(f"dimension 0 is not the same symbol everywhere: {firsts}")


def _axes(inputs: list[TensorInfo], axes: Mapping[str, Mapping[int, AxisInfo]]) -> None:
    """Where torch.export finds a dynamic dimension fixed, torch.onnx.export fixes it in the graph without a word."""
    for tensor in inputs:
        for dim, axis in axes.get(tensor.name, {}).items():
            size = tensor.shape[dim] if dim < len(tensor.shape) else "?"
            if not isinstance(size, str) or size == "?":
                raise _wrong(
                    f"dimension {dim} of {tensor.name!r} is declared dynamic ({axis.name}, {axis.low} to {axis.high}), "
                    f"and the graph has it fixed at {size}: something in the model depends on the example's size"
                )


def _wrong(message: str) -> StepError:
    return StepError(Step.STRUCTURE, message)
