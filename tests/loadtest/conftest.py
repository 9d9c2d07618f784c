"""A scripted server, and a real Triton that serves digits, for load to be sent to."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

from gateway.localtriton.server import LocalTriton
from tests.triton import zoo

StartStub = Callable[..., str]


@pytest.fixture
def start_stub() -> Iterator[StartStub]:
    """`start_stub("--stall", "1", ...)` runs the scripted server and gives its URL."""
    with ExitStack() as stack:

        def start(*options: str) -> str:
            process = subprocess.Popen(
                [sys.executable, "-m", "loadtest.stub", *options], stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            return process.stdout.readline().strip()

        yield start


@pytest.fixture(scope="session")
def digits_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2 of a linear classifier of digits, fitted in closed form, with dynamic batching."""
    root = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    weights = np.linalg.lstsq(images, np.eye(10)[labels], rcond=None)[0].astype(np.float32)
    pixels = helper.make_tensor_value_info("pixels", T.FLOAT, ["batch", 64])
    logits = helper.make_tensor_value_info("logits", T.FLOAT, ["batch", 10])
    node = helper.make_node("MatMul", ["pixels", "w"], ["logits"])
    for version in ("1", "2"):
        path = root / "digits" / version / "model.onnx"
        zoo.save(path, [node], [pixels], [logits], [numpy_helper.from_array(weights, "w")])
    zoo.write_config(
        root / "digits",
        """max_batch_size: 64
input [ { name: "pixels" data_type: TYPE_FP32 dims: [ 64 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 10 ] } ]
version_policy { all { } }
dynamic_batching { max_queue_delay_microseconds: 500 }
""",
    )
    return root


@pytest.fixture(scope="session")
def digits_triton(digits_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A real Triton with the digits classifier. Do not stop or reconfigure it."""
    log = tmp_path_factory.mktemp("digits-triton") / "triton.log"
    with LocalTriton(digits_repository, log_file=log, exit_timeout_s=1) as server:
        yield server
