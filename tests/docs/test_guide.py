"""The guide, followed word by word: its files are written and its commands run, against a real Triton and gateway."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

from gateway.localtriton.server import LocalTriton
from tests.docs.pages import ROOT, Block, blocks
from tests.triton import zoo
from tests.triton.gateway import Gateway, serving

GUIDE = ROOT / "docs/guide"
# What the fixtures do instead, what needs long, and what is about a machine.
_ELSEWHERE = ("sluice export", "sluice triton", "sluice serve --config sluice.yaml &", "sluice rollout plan")


@pytest.fixture(scope="module")
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
def running(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, LocalTriton]]:
    """What the guide starts first: Triton and the gateway."""
    folder = tmp_path_factory.mktemp("running")
    with LocalTriton(repository, log_file=folder / "triton.log", exit_timeout_s=1) as triton:  # noqa: SIM117
        with serving(folder, [triton.http_url], [{"name": "other", "variants": [_OTHER]}], workers=1) as gateway:
            yield gateway, triton


_OTHER = {"name": "v1", "model": "digits", "version": "1", "weight": 100}


def test_the_guide_does_what_it_says(running: tuple[Gateway, LocalTriton], tmp_path: Path) -> None:
    """Serve, canary, shadow, roll back: every file is accepted, every command ends well, in the order of the pages."""
    gateway, triton = running
    places = {
        "127.0.0.1:8080": gateway.address,
        "127.0.0.1:8081": gateway.admin.removeprefix("http://"),
        "http://127.0.0.1:8000": triton.http_url,
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "SLUICE_ADMIN_URL": gateway.admin, "PATH": path}
    ran = 0
    for page in ("serve", "canary", "shadow", "roll-back"):
        for block in blocks(GUIDE / f"{page}.md"):
            text = block.text
            for old, new in places.items():
                text = text.replace(old, new)
            ran += _follow(Block(block.language, text), page, tmp_path, env)
    assert ran > 12
    assert "version 2 answers nonsense" in subprocess.run(
        ["sluice", "history"], capture_output=True, text=True, env=env, check=True, timeout=60
    ).stdout.replace("\n", " ")


def _follow(block: Block, page: str, folder: Path, env: dict[str, str]) -> int:
    """Writes a file, runs a program or runs commands; returns how many ran."""
    if block.language == "yaml":
        file = block.text.splitlines()[0].removeprefix("# ").strip()
        (folder / file).write_text(block.text)
        return 0
    if block.language == "python":
        lines = [[sys.executable, "-c", block.text]]
    else:
        wanted = [line for line in block.text.splitlines() if not line.startswith(_ELSEWHERE)]
        shell = shutil.which("bash")
        assert shell
        lines = [[shell, "-c", line] for line in wanted if line]
    for line in lines:
        result = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=env, timeout=60, check=False)
        assert result.returncode == 0, f"{page}: {line[-1]}\n{result.stdout}{result.stderr}"
        if "%{http_code}" in line[-1]:
            assert result.stdout == "200\n"
    return len(lines)
