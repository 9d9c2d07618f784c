"""float16 inside, float32 outside, and float32 kept wherever half precision cannot hold the numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import Step, StepError
from export.graph import files

Array = npt.NDArray[np.generic]
# Half of float16's largest finite number: what a sample reaches, another request may exceed.
CEILING = 65504.0 / 2
# Operators whose results lose most in half precision; kept in float32 when the plain conversion is refused.
DELICATE = frozenset({
    "Softmax", "LogSoftmax", "LayerNormalization", "ReduceMean", "ReduceSum", "ReduceL2",
    "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Div", "Erf",
})  # fmt: skip
# Attention masks are written as the lowest float32 or minus infinity; clamped to float16's lowest they mask as well.
_MASK = 1e30


def overflowing(path: Path, batches: list[Mapping[str, Array]]) -> list[str]:
    """Names of nodes that read or write a number beyond the ceiling on any of the batches, or hold such a weight."""
    import onnx  # noqa: PLC0415
    import onnxruntime as ort  # noqa: PLC0415

    model = onnx.shape_inference.infer_shapes(onnx.load(files.graph_file(path)))
    floats = {
        value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    produced = {name for node in model.graph.node for name in node.output}
    watched = sorted((floats & produced) - {value.name for value in model.graph.output})
    weights = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    too_large = {weight.name for weight in weights if _beyond(onnx.numpy_helper.to_array(weight))}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in watched
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session: Any = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    for batch in batches:
        for name, values in zip(names, session.run(names, dict(batch)), strict=True):
            if np.issubdtype(values.dtype, np.floating) and _beyond(values):
                too_large.add(name)
        too_large |= {n for n, v in batch.items() if np.issubdtype(v.dtype, np.floating) and _beyond(v)}
    return [node.name for node in model.graph.node if too_large & {*node.input, *node.output}]


def _beyond(values: Array) -> bool:
    sizes = np.abs(values.astype(np.float64))
    return bool(((sizes > CEILING) & (sizes < _MASK)).any())


def delicate(path: Path) -> list[str]:
    """Names of nodes of the delicate operators."""
    import onnx  # noqa: PLC0415

    model = onnx.load(files.graph_file(path), load_external_data=False)
    return [node.name for node in model.graph.node if node.op_type in DELICATE]


def convert(source: Path, target: Path, keep: list[str]) -> int:
    """Write `target` in float16 with the nodes `keep` in float32; returns how many nodes became float16."""
    import onnx  # noqa: PLC0415
    import onnx_ir  # noqa: PLC0415
    from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass  # noqa: PLC0415
    from onnxruntime.transformers import float16  # noqa: PLC0415

    model = onnx.load(files.graph_file(source))
    total = len(model.graph.node)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it reports each weight below float16's range; parity judges what that costs
        try:
            converted = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=keep)
        except Exception as error:
            raise StepError(
                Step.PRECISION, f"the float16 conversion fails: {str(error).splitlines()[0][:300]}"
            ) from error
    graph = onnx_ir.from_proto(converted)
    _join_casts(graph, onnx_ir)
    RemoveUnusedNodesPass()(graph)
    TopologicalSortPass()(graph)
    files.write(graph, target)
    return total - len(keep)


def _join_casts(graph: Any, onnx_ir: Any) -> None:
    """Between two nodes kept in float32 the converter casts down and up again, through the overflow that they avoid."""
    for node in graph.graph.all_nodes():
        if node.op_type != "Cast" or node.attributes["to"].as_int() != onnx_ir.DataType.FLOAT:
            continue
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is None or before.op_type != "Cast" or before.attributes["to"].as_int() != onnx_ir.DataType.FLOAT16:
            continue
        if node.outputs[0].is_graph_output():
            node.replace_input_with(0, before.inputs[0])
        else:
            for user, index in list(node.outputs[0].uses()):
                user.replace_input_with(index, before.inputs[0])


def attempts(source: Path, batches: list[Mapping[str, Array]]) -> Iterator[list[str]]:
    """What to keep in float32: first only what overflows, then the delicate operators too."""
    first = overflowing(source, batches)
    yield first
    more = sorted({*first, *delicate(source)})
    if more != sorted(first):
        yield more
