"""How the local backend reads a configuration: session and CUDA options, without a server or a GPU."""

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import onnxruntime as ort
import pytest

from gateway.localtriton import backends, wheel


@pytest.fixture(scope="module")
def shim() -> Iterator[ModuleType]:
    """The backend's module, imported beside the helper module that Triton's stub would give it."""
    helper = str(wheel.locate().python_backend)
    sys.path.insert(0, helper)
    try:
        spec = importlib.util.spec_from_file_location("sluice_test_shim", backends.SHIM)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(helper)
        sys.modules.pop("triton_python_backend_utils", None)


def parameters(**values: str) -> dict[str, Any]:
    """A configuration with these parameters, as Triton hands it over."""
    return {"parameters": {key.replace("__", "."): {"string_value": value} for key, value in values.items()}}


def test_defaults_leave_the_choice_to_onnx_runtime(shim: ModuleType) -> None:
    """Without parameters: all optimizations, threads as ONNX Runtime likes, and none that spins while idle."""
    options = shim._session_options({})
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (0, 0)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_session_parameters_are_honoured(shim: ModuleType) -> None:
    """Each parameter of the C++ backend reaches the session."""
    config = parameters(
        intra_op_thread_count="3",
        inter_op_thread_count="2",
        execution_mode="1",
        enable_mem_arena="false",
        enable_mem_pattern="0",
        session__use_device_allocator_for_initializers="1",
    )
    options = shim._session_options(config)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert options.enable_cpu_mem_arena is False
    assert options.enable_mem_pattern is False
    assert options.get_session_config_entry("session.use_device_allocator_for_initializers") == "1"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (-1, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        (1, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
        (2, ort.GraphOptimizationLevel.ORT_DISABLE_ALL),
    ],
)
def test_graph_levels_mean_what_they_do_in_the_official_backend(shim: ModuleType, level: int, expected: object) -> None:
    """-1 is basic, 1 extended, 2 off."""
    options = shim._session_options({"optimization": {"graph": {"level": level}}})
    assert options.graph_optimization_level == expected


def test_cuda_options_are_translated(shim: ModuleType) -> None:
    """Numbers of the C++ backend become the names that the Python interface wants."""
    config = parameters(
        cudnn_conv_algo_search="1", arena_extend_strategy="1", gpu_mem_limit="1073741824", do_copy_in_default_stream="1"
    )
    assert shim._cuda_options(config, 2) == {
        "device_id": "2",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "1073741824",
        "do_copy_in_default_stream": "1",
    }


def test_a_gpu_without_onnxruntime_gpu_is_explained(shim: ModuleType) -> None:
    """An instance that must have a GPU does not quietly run on the processor."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(shim.ConfigurationError, match="install onnxruntime-gpu in place of onnxruntime"):
        shim._providers({}, "GPU", 0)
