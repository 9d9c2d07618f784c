"""A Python-based Triton backend that answers to the name `onnxruntime`.

Triton looks for `libtriton_onnxruntime.so` first and falls back to this file, so a repository written for the official
container (`backend: "onnxruntime"`) is served unchanged where only ONNX Runtime from PyPI exists. Batching across
requests, scheduling, sequences and statistics stay Triton's own; this file turns one scheduled batch into one run.

It honours what the C++ backend reads from a configuration: `default_model_filename`, a model file or a directory of
that name holding `model.onnx`, `optimization.graph.level`, and the parameters listed in `_session_options` and
`_cuda_options` (source: onnxruntime.cc of triton-inference-server/onnxruntime_backend). What it cannot do it refuses
when the model loads, naming the field: implicit sequence state, batch inputs and outputs, decoupled models, BF16.

It runs inside Triton's Python stub, which provides `triton_python_backend_utils`; it imports nothing of Sluice.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb

Array = np.ndarray[Any, np.dtype[Any]]
Config = dict[str, Any]

# TYPE_* of config.pbtxt -> element type as ONNX Runtime prints it.
_ELEMENT = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}
# optimization.graph.level -> ONNX Runtime's level; the C++ backend's table, where 2 means "off".
_GRAPH_LEVEL = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_ALGO_SEARCH = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
_ARENA = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
_BOOL = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


class ConfigurationError(Exception):
    """The configuration asks for something this backend cannot give, or disagrees with the model."""


def _parameters(config: Config) -> dict[str, str]:
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def _choice(parameters: dict[str, str], key: str, allowed: dict[str, Any]) -> Any:
    raw = parameters[key].strip().lower()
    if raw not in allowed:
        raise ConfigurationError(f"parameter {key!r} is {parameters[key]!r}; it must be one of {', '.join(allowed)}")
    return allowed[raw]


def _count(parameters: dict[str, str], key: str) -> int:
    raw = parameters.get(key, "0").strip()
    if not raw.isdecimal():
        raise ConfigurationError(f"parameter {key!r} is {raw!r}; it must be a whole number, 0 or more")
    return int(raw)


def _session_options(config: Config) -> ort.SessionOptions:
    parameters = _parameters(config)
    options = ort.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = _GRAPH_LEVEL.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    options.intra_op_num_threads = _count(parameters, "intra_op_thread_count")
    options.inter_op_num_threads = _count(parameters, "inter_op_thread_count")
    if "execution_mode" in parameters:
        modes = {"0": ort.ExecutionMode.ORT_SEQUENTIAL, "1": ort.ExecutionMode.ORT_PARALLEL}
        options.execution_mode = _choice(parameters, "execution_mode", modes)
    if "enable_mem_arena" in parameters:
        options.enable_cpu_mem_arena = _choice(parameters, "enable_mem_arena", _BOOL)
    if "enable_mem_pattern" in parameters:
        options.enable_mem_pattern = _choice(parameters, "enable_mem_pattern", _BOOL)
    key = "session.use_device_allocator_for_initializers"
    if key in parameters:
        options.add_session_config_entry(key, parameters[key])
    # Threads that spin while idle would take the processor from the gateway on the same machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _cuda_options(config: Config, device_id: int) -> dict[str, str]:
    parameters = _parameters(config)
    options = {"device_id": str(device_id)}
    if "cudnn_conv_algo_search" in parameters:
        options["cudnn_conv_algo_search"] = _choice(parameters, "cudnn_conv_algo_search", _ALGO_SEARCH)
    if "arena_extend_strategy" in parameters:
        options["arena_extend_strategy"] = _choice(parameters, "arena_extend_strategy", _ARENA)
    for key in ("gpu_mem_limit", "do_copy_in_default_stream", "use_tf32"):
        if key in parameters:
            options[key] = parameters[key]
    return options


def _providers(config: Config, kind: str, device_id: int) -> list[Any]:
    if kind != "GPU":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ConfigurationError(
            "instance_group asks for a GPU, but the installed ONNX Runtime has no CUDA provider: "
            "install onnxruntime-gpu in place of onnxruntime"
        )
    ort.preload_dlls()
    return [("CUDAExecutionProvider", _cuda_options(config, device_id)), "CPUExecutionProvider"]


def _model_path(args: dict[str, str], config: Config) -> Path:
    name = config.get("default_model_filename") or "model.onnx"
    path = Path(args["model_repository"]) / args["model_version"] / name
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise ConfigurationError(f"there is no model file at {path}")
    return path


def _refuse_unsupported(config: Config) -> None:
    if config.get("model_transaction_policy", {}).get("decoupled"):
        raise ConfigurationError("model_transaction_policy.decoupled is not possible with an ONNX model")
    if config.get("sequence_batching", {}).get("state"):
        raise ConfigurationError(
            "sequence_batching.state (implicit state) is not supported by the local backend: "
            "pass the state as ordinary inputs and outputs"
        )
    for field in ("batch_input", "batch_output"):
        if config.get(field):
            raise ConfigurationError(f"{field} is not supported by the local backend")


def _check_tensors(kind: str, declared: Sequence[Config], actual: dict[str, Any], *, batched: bool) -> None:
    """Compare the configuration's tensors with the model's: name, element type and rank."""
    for tensor in declared:
        name = tensor["name"]
        if name not in actual:
            raise ConfigurationError(f"{kind} {name!r} is not in the model, which has: {', '.join(sorted(actual))}")
        expected = _ELEMENT.get(tensor["data_type"])
        if expected != actual[name].type:
            raise ConfigurationError(
                f"{kind} {name!r} is {tensor['data_type']} in the configuration and {actual[name].type} in the model"
            )
        dims = tensor["reshape"]["shape"] if "reshape" in tensor else tensor["dims"]
        shape = actual[name].shape
        rank = len(dims) + batched
        if shape is not None and len(shape) != rank:
            raise ConfigurationError(
                f"{kind} {name!r} has rank {rank} in the configuration and {len(shape)} in the model"
            )


def _controls(config: Config) -> set[str]:
    """Names of the control inputs that the sequence batcher adds to each request."""
    return {control["name"] for control in config.get("sequence_batching", {}).get("control_input", [])}


def _decode(array: Array) -> Array:
    """BYTES elements -> str, which is the only string element that ONNX Runtime takes; raises UnicodeDecodeError."""
    flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)


def _encode(array: Array) -> Array:
    flat = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)


Run = Callable[[list[str], dict[str, Array]], list[Array]]


class TritonPythonModel:
    """One instance of one model version, as Triton's Python stub drives it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model's session; raises ConfigurationError, which Triton reports as the load's failure."""
        config: Config = json.loads(args["model_config"])
        _refuse_unsupported(config)
        path = _model_path(args, config)
        kind = args["model_instance_kind"]
        providers = _providers(config, kind, int(args["model_instance_device_id"]))
        session = ort.InferenceSession(str(path), sess_options=_session_options(config), providers=providers)
        if kind == "GPU" and "CUDAExecutionProvider" not in session.get_providers():
            raise ConfigurationError("ONNX Runtime could not start its CUDA provider; see the messages above")
        self._batched = int(config.get("max_batch_size", 0)) > 0
        inputs = {tensor.name: tensor for tensor in session.get_inputs()}
        outputs = {tensor.name: tensor for tensor in session.get_outputs()}
        _check_tensors("input", config.get("input", []), inputs, batched=self._batched)
        _check_tensors("output", config.get("output", []), outputs, batched=self._batched)
        declared = {tensor["name"] for tensor in config.get("input", [])} | _controls(config)
        missing = [name for name in inputs if name not in declared]
        if missing:
            raise ConfigurationError(f"the configuration does not declare the model's inputs: {', '.join(missing)}")
        self._run = cast(Run, session.run)
        self._inputs = frozenset(inputs)
        self._text_inputs = frozenset(name for name, tensor in inputs.items() if tensor.type == "tensor(string)")
        self._text_outputs = frozenset(name for name, tensor in outputs.items() if tensor.type == "tensor(string)")
        self._outputs = [tensor["name"] for tensor in config.get("output", [])]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request in order; a request that fails gets its own error and spoils no other."""
        responses: list[Any] = [None] * len(requests)
        feeds: list[dict[str, Array]] = []
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, request in enumerate(requests):
            try:
                feed = self._feed(request)
            except UnicodeDecodeError as error:
                responses[index] = _failure(f"a BYTES input is not valid UTF-8: {error}")
                feed = {}
            feeds.append(feed)
            if responses[index] is None:
                groups.setdefault(self._group_key(index, feed), []).append(index)
        for members in groups.values():
            self._answer(members, requests, feeds, responses)
        return responses

    def _feed(self, request: Any) -> dict[str, Array]:
        feed = {}
        for tensor in request.inputs():
            name = tensor.name()
            if name in self._inputs:
                array = tensor.as_numpy()
                feed[name] = _decode(array) if name in self._text_inputs else array
        return feed

    def _group_key(self, index: int, feed: dict[str, Array]) -> tuple[Any, ...]:
        """Requests with equal keys run as one batch: same inputs present, same shape behind the batch dimension."""
        if not self._batched:
            return (index,)
        return tuple(sorted((name, array.shape[1:]) for name, array in feed.items()))

    def _answer(
        self, members: list[int], requests: Sequence[Any], feeds: list[dict[str, Array]], responses: list[Any]
    ) -> None:
        wanted = [set(requests[index].requested_output_names()) for index in members]
        union = [name for name in self._outputs if any(name in names for names in wanted)]
        rows = [len(next(iter(feeds[index].values()))) if self._batched else 0 for index in members]
        try:
            if len(members) == 1:
                feed = feeds[members[0]]
            else:
                feed = {name: np.concatenate([feeds[index][name] for index in members]) for name in feeds[members[0]]}
            results = dict(zip(union, self._run(union, feed), strict=True))
            if len(members) > 1:
                self._check_rows(results, sum(rows))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many unrelated classes
            if len(members) == 1:
                responses[members[0]] = _failure(f"ONNX Runtime: {error}")
            else:
                for index in members:
                    self._answer([index], requests, feeds, responses)
            return
        for name in self._text_outputs.intersection(results):
            results[name] = _encode(results[name])
        start = 0
        for index, names, count in zip(members, wanted, rows, strict=True):
            tensors = []
            for name in union:
                if name in names:
                    whole = results[name]
                    part = whole if len(members) == 1 else whole[start : start + count]
                    tensors.append(pb.Tensor(name, part))
            responses[index] = pb.InferenceResponse(tensors)
            start += count

    @staticmethod
    def _check_rows(results: dict[str, Array], rows: int) -> None:
        """A model whose output does not grow with its batch cannot be cut into answers."""
        for name, array in results.items():
            if array.ndim == 0 or len(array) != rows:
                raise ConfigurationError(f"output {name!r} has shape {array.shape} for a batch of {rows}")


def _failure(text: str) -> Any:
    return pb.InferenceResponse(output_tensors=[], error=pb.TritonError(text))
