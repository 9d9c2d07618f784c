"""The Python-based `onnxruntime` backend, asked through tritonclient on a real Triton."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient import http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gateway.localtriton.server import LocalTriton
from tests.triton import zoo

SAMPLES = {
    "BOOL": np.array([[True, False]]),
    "FP16": np.array([[1.5, -65504]], np.float16),
    "FP32": np.array([[1.5, -3e38]], np.float32),
    "FP64": np.array([[1.5, -1e300]], np.float64),
    "STRING": np.array([["Grüße, 世界".encode(), b""]], np.object_),
} | {
    name: np.array([[np.iinfo(kind).min, np.iinfo(kind).max]], kind)
    for name, kind in [
        ("UINT8", np.uint8),
        ("UINT16", np.uint16),
        ("UINT32", np.uint32),
        ("UINT64", np.uint64),
        ("INT8", np.int8),
        ("INT16", np.int16),
        ("INT32", np.int32),
        ("INT64", np.int64),
    ]
}


def tensor(name: str, array: np.ndarray, *, binary: bool = True) -> http.InferInput:
    """An array as tritonclient's input."""
    made = http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def ask(triton: LocalTriton, model: str, feeds: dict[str, np.ndarray], **options: object) -> http.InferResult:
    """One inference over a connection of its own."""
    with http.InferenceServerClient(triton.http_address) as client:
        return client.infer(model, [tensor(name, array) for name, array in feeds.items()], **options)


def ask_together(triton: LocalTriton, model: str, feeds: list[dict[str, np.ndarray]]) -> list[object]:
    """Concurrent inferences, which Triton batches; each gives its result or its exception."""

    def one(feed: dict[str, np.ndarray]) -> object:
        try:
            return ask(triton, model, feed)
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(len(feeds)) as pool:
        return list(pool.map(one, feeds))


def executions(triton: LocalTriton, model: str) -> int:
    """How many batches the model has run."""
    with http.InferenceServerClient(triton.http_address) as client:
        return client.get_inference_statistics(model)["model_stats"][0]["execution_count"]


def test_every_element_type_survives(triton: LocalTriton) -> None:
    """Each element type's extremes come back bit by bit."""
    result = ask(triton, "every_type", {f"IN_{name}": array for name, array in SAMPLES.items()})
    assert len(SAMPLES) == len(zoo.EVERY_TYPE)
    for name, array in SAMPLES.items():
        np.testing.assert_array_equal(result.as_numpy(f"OUT_{name}"), array, strict=True)


def test_only_requested_outputs_are_answered(triton: LocalTriton) -> None:
    """A request for one output gets that one and no other."""
    feeds = {"INPUT0": np.ones((2, 16), np.float32), "INPUT1": np.full((2, 16), 3, np.float32)}
    result = ask(triton, "add_sub", feeds, outputs=[http.InferRequestedOutput("OUTPUT1")])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), np.full((2, 16), -2, np.float32))
    assert result.as_numpy("OUTPUT0") is None


def test_a_model_in_a_directory_serves_fp16(triton: LocalTriton) -> None:
    """`1/model.onnx/model.onnx` is found, and FP16 goes in and out."""
    x = np.array([[0.5, 1, -2, 1024]], np.float16)
    np.testing.assert_array_equal(ask(triton, "half", {"X": x}).as_numpy("Y"), x + x, strict=True)


def test_a_model_without_batch_dimension(triton: LocalTriton) -> None:
    """max_batch_size 0 passes shapes as they are, with session parameters set."""
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(ask(triton, "unbatched", {"X": x}).as_numpy("Y"), x + x, strict=True)


def test_reshape_hides_the_trailing_one(triton: LocalTriton) -> None:
    """A rank-1 model behind `dims: [1] reshape: {shape: []}` takes and gives [batch, 1]."""
    x = np.arange(3, dtype=np.float32).reshape(3, 1)
    np.testing.assert_array_equal(ask(triton, "scalar_rows", {"X": x}).as_numpy("Y"), x + x, strict=True)


def test_concurrent_requests_run_as_one_batch(triton: LocalTriton) -> None:
    """Four single rows are executed together and each gets its own row back."""
    before = executions(triton, "pick")
    feeds = [{"DATA": np.array([[i, 10 + i, 0, 0]], np.float32), "INDEX": np.array([[1]], np.int64)} for i in range(4)]
    results = ask_together(triton, "pick", feeds)
    assert [float(result.as_numpy("Y")[0, 0]) for result in results] == [10, 11, 12, 13]
    assert executions(triton, "pick") - before < len(feeds)


def test_one_bad_request_does_not_spoil_its_batch(triton: LocalTriton) -> None:
    """An index out of bounds fails alone; its neighbours in the batch get their answers."""
    data = np.array([[5, 6, 7, 8]], np.float32)
    results = ask_together(triton, "pick", [{"DATA": data, "INDEX": np.array([[i]], np.int64)} for i in (0, 99, 2, 3)])
    assert isinstance(results[1], InferenceServerException)
    assert "Out of range value in index tensor" in str(results[1])
    assert [float(results[i].as_numpy("Y")[0, 0]) for i in (0, 2, 3)] == [5, 7, 8]


def test_rows_of_different_lengths_are_kept_apart(triton: LocalTriton) -> None:
    """Requests whose trailing shapes differ share a scheduled batch but not a run."""
    results = ask_together(triton, "row_length", [{"X": np.ones((1, n), np.float32)} for n in (3, 5, 3, 9)])
    assert [float(result.as_numpy("LENGTH")[0, 0]) for result in results] == [3, 5, 3, 9]


def test_text_that_is_not_utf8_is_refused(triton: LocalTriton) -> None:
    """ONNX Runtime strings are UTF-8: other bytes give that request an error that says so."""
    feeds = {f"IN_{name}": array for name, array in SAMPLES.items()}
    feeds["IN_STRING"] = np.array([[b"\xff\xfe", b""]], np.object_)
    with pytest.raises(InferenceServerException, match="not valid UTF-8"):
        ask(triton, "every_type", feeds)


def test_sequence_controls_reach_the_model(triton: LocalTriton) -> None:
    """START arrives as an input: the state that the client carries counts only after the first request."""
    state = np.array([[100.0]], np.float32)
    sums = []
    for step, value in enumerate([1.0, 2.0, 3.0]):
        feeds = {"VALUE": np.array([[value]], np.float32), "STATE": state}
        result = ask(triton, "running_sum", feeds, sequence_id=7, sequence_start=step == 0, sequence_end=step == 2)
        state = result.as_numpy("SUM")
        sums.append(float(state[0, 0]))
    assert sums == [1, 3, 6]


def test_each_version_is_its_own_model(triton: LocalTriton) -> None:
    """Versions load side by side and answer for themselves."""
    x = np.zeros((1, 4), np.float32)
    answers = [ask(triton, "versioned", {"X": x}, model_version=str(v)).as_numpy("Y")[0, 0] for v in (1, 2, 3)]
    assert answers == [1, 2, 3]


CONFIG = """max_batch_size: 8
input [ {{ name: "{input}" data_type: {kind} dims: {dims} }}, {{ name: "INPUT1" data_type: TYPE_FP32 dims: [ 16 ] }} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [ 16 ] }} ]
{extra}
"""
GOOD = {"input": "INPUT0", "kind": "TYPE_FP32", "dims": "[ 16 ]", "output": "OUTPUT0", "extra": ""}
STATE = """sequence_batching {
  state [ { input_name: "INPUT1" output_name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 16 ] } ]
}"""
WRONG = {
    "unknown input": ({"input": "NOPE"}, "input 'NOPE' is not in the model, which has: INPUT0, INPUT1"),
    "unknown output": ({"output": "NOPE"}, "output 'NOPE' is not in the model"),
    "type": ({"kind": "TYPE_FP16"}, "'INPUT0' is TYPE_FP16 in the configuration and tensor(float) in the model"),
    "rank": ({"dims": "[ 4, 4 ]"}, "'INPUT0' has rank 3 in the configuration and 2 in the model"),
    "threads": (
        {"extra": 'parameters { key: "intra_op_thread_count" value: { string_value: "many" } }'},
        "parameter 'intra_op_thread_count' is 'many'",
    ),
    "mode": (
        {"extra": 'parameters { key: "execution_mode" value: { string_value: "7" } }'},
        "parameter 'execution_mode' is '7'; it must be one of 0, 1",
    ),
    "state": ({"extra": STATE}, "implicit state"),
    "decoupled": ({"extra": "model_transaction_policy { decoupled: true }"}, "decoupled is not possible"),
    "file": ({"extra": 'default_model_filename: "other.onnx"'}, "there is no model file at"),
}


@pytest.fixture(scope="module")
def empty_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A Triton whose repository is empty at first."""
    root = tmp_path_factory.mktemp("empty")
    (root / "repository").mkdir()
    with LocalTriton(root / "repository", log_file=root / "triton.log", exit_timeout_s=1) as server:
        yield server


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_configuration_is_named(empty_triton: LocalTriton, case: str) -> None:
    """A model that disagrees with its configuration does not load, and the answer says which field is wrong."""
    change, message = WRONG[case]
    name = case.replace(" ", "_")
    zoo.add_sub(empty_triton.repository, name)
    zoo.write_config(empty_triton.repository / name, CONFIG.format(**GOOD | change))
    with (
        http.InferenceServerClient(empty_triton.http_address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.load_model(name)
    assert message in str(caught.value)


def test_the_configuration_behind_the_wrong_ones_loads(empty_triton: LocalTriton) -> None:
    """The unchanged configuration is right, so each refusal above is due to its one change."""
    zoo.add_sub(empty_triton.repository, "good")
    zoo.write_config(empty_triton.repository / "good", CONFIG.format(**GOOD))
    with http.InferenceServerClient(empty_triton.http_address) as client:
        client.load_model("good")
        assert client.is_model_ready("good")
