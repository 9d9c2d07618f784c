"""A small model repository for tests: the Python models beside this file, and tiny ONNX models built on the spot."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto as T
from onnx import helper

MODELS = Path(__file__).parent / "models"

# config.pbtxt type -> (ONNX element type, name of the tensor in `every_type`)
EVERY_TYPE = {
    "TYPE_BOOL": T.BOOL,
    "TYPE_UINT8": T.UINT8,
    "TYPE_UINT16": T.UINT16,
    "TYPE_UINT32": T.UINT32,
    "TYPE_UINT64": T.UINT64,
    "TYPE_INT8": T.INT8,
    "TYPE_INT16": T.INT16,
    "TYPE_INT32": T.INT32,
    "TYPE_INT64": T.INT64,
    "TYPE_FP16": T.FLOAT16,
    "TYPE_FP32": T.FLOAT,
    "TYPE_FP64": T.DOUBLE,
    "TYPE_STRING": T.STRING,
}


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> None:
    """Write one checked ONNX model of opset 18."""
    graph = helper.make_graph(list(nodes), "zoo", list(inputs), list(outputs), initializer=list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_config(model: Path, text: str) -> None:
    """Write a model's config.pbtxt, for the onnxruntime backend on the processor."""
    model.mkdir(parents=True, exist_ok=True)
    head = 'backend: "onnxruntime"\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n'
    (model / "config.pbtxt").write_text(head + text)


def add_sub(root: Path, name: str = "add_sub") -> None:
    """OUTPUT0 = INPUT0 + INPUT1 and OUTPUT1 = INPUT0 - INPUT1, FP32 [16], batches of up to 8."""
    inputs = [helper.make_tensor_value_info(f"INPUT{i}", T.FLOAT, ["batch", 16]) for i in (0, 1)]
    outputs = [helper.make_tensor_value_info(f"OUTPUT{i}", T.FLOAT, ["batch", 16]) for i in (0, 1)]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    save(root / name / "1" / "model.onnx", nodes, inputs, outputs)
    write_config(
        root / name,
        """max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }, { name: "INPUT1" data_type: TYPE_FP32 dims: [ 16 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }, { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 16 ] } ]
dynamic_batching { max_queue_delay_microseconds: 100 }
""",
    )


def half(root: Path) -> None:
    """Y = X + X in FP16 [4], batches of up to 8, stored as a directory the way large models are."""
    node = helper.make_node("Add", ["X", "X"], ["Y"])
    tensors = [helper.make_tensor_value_info(name, T.FLOAT16, ["batch", 4]) for name in "XY"]
    save(root / "half" / "1" / "model.onnx" / "model.onnx", [node], tensors[:1], tensors[1:])
    write_config(
        root / "half",
        """max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP16 dims: [ 4 ] } ]
output [ { name: "Y" data_type: TYPE_FP16 dims: [ 4 ] } ]
dynamic_batching { }
""",
    )


def versioned(root: Path, versions: Sequence[int] = (1, 2, 3), name: str = "versioned") -> None:
    """Y = X + the version's number, FP32 [4]; all versions are served, so an answer tells who gave it."""
    x, y = (helper.make_tensor_value_info(tensor, T.FLOAT, ["batch", 4]) for tensor in "XY")
    for version in versions:
        number = helper.make_tensor("number", T.FLOAT, [1], [float(version)])
        node = helper.make_node("Add", ["X", "number"], ["Y"])
        save(root / name / str(version) / "model.onnx", [node], [x], [y], [number])
    write_config(
        root / name,
        """max_batch_size: 64
version_policy { all { } }
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] } ]
dynamic_batching { }
""",
    )


def every_type(root: Path) -> None:
    """One identity per element type, `IN_<type>` to `OUT_<type>`, each [2], batches of up to 8."""
    nodes, inputs, outputs, declared = [], [], [], {"input": [], "output": []}
    for kind, element in EVERY_TYPE.items():
        short = kind.removeprefix("TYPE_")
        nodes.append(helper.make_node("Identity", [f"IN_{short}"], [f"OUT_{short}"]))
        inputs.append(helper.make_tensor_value_info(f"IN_{short}", element, ["batch", 2]))
        outputs.append(helper.make_tensor_value_info(f"OUT_{short}", element, ["batch", 2]))
        declared["input"].append(f'{{ name: "IN_{short}" data_type: {kind} dims: [ 2 ] }}')
        declared["output"].append(f'{{ name: "OUT_{short}" data_type: {kind} dims: [ 2 ] }}')
    save(root / "every_type" / "1" / "model.onnx", nodes, inputs, outputs)
    lists = "".join(f"{key} [ {', '.join(tensors)} ]\n" for key, tensors in declared.items())
    write_config(root / "every_type", f"max_batch_size: 8\n{lists}")


def pick(root: Path) -> None:
    """Y = the element of DATA [4] at INDEX, refused by ONNX Runtime where INDEX is out of bounds; waits to batch."""
    data = helper.make_tensor_value_info("DATA", T.FLOAT, ["batch", 4])
    index = helper.make_tensor_value_info("INDEX", T.INT64, ["batch", 1])
    y = helper.make_tensor_value_info("Y", T.FLOAT, ["batch", 1])
    node = helper.make_node("GatherElements", ["DATA", "INDEX"], ["Y"], axis=1)
    save(root / "pick" / "1" / "model.onnx", [node], [data, index], [y])
    write_config(
        root / "pick",
        """max_batch_size: 8
input [ { name: "DATA" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "INDEX" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 200000 }
""",
    )


def row_length(root: Path) -> None:
    """LENGTH = how many elements each row of X has: rows of different lengths must not be batched together."""
    x = helper.make_tensor_value_info("X", T.FLOAT, ["batch", "length"])
    y = helper.make_tensor_value_info("LENGTH", T.FLOAT, ["batch", 1])
    ones = helper.make_tensor("one", T.FLOAT, [], [1.0])
    zero = helper.make_tensor("zero", T.FLOAT, [], [0.0])
    axes = helper.make_tensor("axes", T.INT64, [1], [1])
    nodes = [
        helper.make_node("Mul", ["X", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "one"], ["each"]),
        helper.make_node("ReduceSum", ["each", "axes"], ["LENGTH"], keepdims=1),
    ]
    save(root / "row_length" / "1" / "model.onnx", nodes, [x], [y], [ones, zero, axes])
    write_config(
        root / "row_length",
        """max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true } ]
output [ { name: "LENGTH" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 200000 }
""",
    )


def unbatched(root: Path) -> None:
    """Y = X + X for one FP32 tensor of any length, without a batch dimension; two instances."""
    x, y = (helper.make_tensor_value_info(tensor, T.FLOAT, ["n"]) for tensor in "XY")
    save(root / "unbatched" / "1" / "model.onnx", [helper.make_node("Add", ["X", "X"], ["Y"])], [x], [y])
    write_config(
        root / "unbatched",
        """max_batch_size: 0
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
parameters { key: "execution_mode" value: { string_value: "0" } }
parameters { key: "enable_mem_arena" value: { string_value: "true" } }
optimization { graph { level: 1 } }
""",
    )


def scalar_rows(root: Path) -> None:
    """Y = X + X for one FP32 number per row: the model has rank 1, clients see [batch, 1] through `reshape`."""
    x, y = (helper.make_tensor_value_info(tensor, T.FLOAT, ["batch"]) for tensor in "XY")
    save(root / "scalar_rows" / "1" / "model.onnx", [helper.make_node("Add", ["X", "X"], ["Y"])], [x], [y])
    write_config(
        root / "scalar_rows",
        """max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } } ]
""",
    )


def running_sum(root: Path) -> None:
    """An ONNX sequence model: SUM = (START ? 0 : STATE) + VALUE, the client carrying STATE from answer to request."""
    value = helper.make_tensor_value_info("VALUE", T.FLOAT, ["batch", 1])
    state = helper.make_tensor_value_info("STATE", T.FLOAT, ["batch", 1])
    start = helper.make_tensor_value_info("START", T.FLOAT, ["batch", 1])
    total = helper.make_tensor_value_info("SUM", T.FLOAT, ["batch", 1])
    one = helper.make_tensor("one", T.FLOAT, [], [1.0])
    nodes = [
        helper.make_node("Sub", ["one", "START"], ["keep"]),
        helper.make_node("Mul", ["STATE", "keep"], ["kept"]),
        helper.make_node("Add", ["kept", "VALUE"], ["SUM"]),
    ]
    save(root / "running_sum" / "1" / "model.onnx", nodes, [value, state, start], [total], [one])
    write_config(
        root / "running_sum",
        """max_batch_size: 8
input [ { name: "VALUE" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "STATE" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "SUM" data_type: TYPE_FP32 dims: [ 1 ] } ]
sequence_batching {
  max_sequence_idle_microseconds: 3000000
  control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] } ]
}
""",
    )


ONNX_MODELS = (add_sub, half, versioned, every_type, pick, row_length, unbatched, scalar_rows, running_sum)


def build(root: Path) -> Path:
    """Write the whole zoo into a directory and return it."""
    shutil.copytree(MODELS, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    # Both sequence models run the same code; only the type of their sequence ids differs.
    shutil.copytree(root / "accumulate" / "1", root / "accumulate_text" / "1", dirs_exist_ok=True)
    for write in ONNX_MODELS:
        write(root)
    return root
