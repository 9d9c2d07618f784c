"""A Triton with the models that the documentation names, and a gateway in front of it."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

from gateway.localtriton.server import LocalTriton
from tests.triton import zoo
from tests.triton.gateway import Gateway, serving

_OTHER = {"name": "v1", "model": "digits", "version": "1", "weight": 100}


@dataclass(frozen=True)
class Place:
    """Where the documentation's commands find what they speak to."""

    gateway: Gateway
    triton: LocalTriton

    def here(self, text: str) -> str:
        """The text with the addresses of these servers in place of the usual ones."""
        places = {
            "127.0.0.1:8080": self.gateway.address,
            "127.0.0.1:8081": self.gateway.admin.removeprefix("http://"),
            "http://127.0.0.1:8000": self.triton.http_url,
        }
        for usual, actual in places.items():
            text = text.replace(usual, actual)
        return text

    def environment(self) -> dict[str, str]:
        """That of a user who has the commands on PATH."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "SLUICE_ADMIN_URL": self.gateway.admin, "PATH": path}


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of a classifier of digits, named and shaped as the sample models are."""
    root = tmp_path_factory.mktemp("guide")
    images, labels = load_digits(return_X_y=True)
    weights = numpy_helper.from_array((images[:64].T / 16).astype("float32")[:, :10].copy(), "w")
    assert len(labels) == len(images)
    pixels = helper.make_tensor_value_info("pixels", T.FLOAT, ["batch", 64])
    logits = helper.make_tensor_value_info("logits", T.FLOAT, ["batch", 10])
    node = helper.make_node("MatMul", ["pixels", "w"], ["logits"])
    for version in ("1", "2", "3"):
        zoo.save(root / "digits" / version / "model.onnx", [node], [pixels], [logits], [weights])
    tensors = 'input [ { name: "pixels" data_type: TYPE_FP32 dims: [ 64 ] } ]\n'
    tensors += 'output [ { name: "logits" data_type: TYPE_FP32 dims: [ 10 ] } ]\n'
    zoo.write_config(root / "digits", f"max_batch_size: 64\n{tensors}version_policy {{ all {{ }} }}\n")
    return root


@pytest.fixture(scope="module")
def running(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """What the guide starts first: Triton and the gateway."""
    folder = tmp_path_factory.mktemp("running")
    with LocalTriton(repository, log_file=folder / "triton.log", exit_timeout_s=1) as triton:  # noqa: SIM117
        with serving(folder, [triton.http_url], [{"name": "other", "variants": [_OTHER]}], workers=1) as gateway:
            yield Place(gateway, triton)
