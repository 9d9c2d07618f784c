"""Building a plan with the `tensorrt` package, as far as it can be seen without a GPU.

The builder is a stand-in with the documented names, in the fresh process where the real package would be; it writes
down what it was asked into the plan. What a real TensorRT makes of it is unknown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.errors import StepError
from export.graph import tensorrt
from export.serving import proto
from export.targets import target

_PACKAGE = """
import json
__version__ = "VERSION"
asked = {"profiles": {}}
class Logger:
    WARNING = 1
    def __init__(self, least): pass
class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1
class Profile:
    def set_shape(self, name, low, usual, high): asked["profiles"][name] = [low, usual, high]
class Config:
    def add_optimization_profile(self, profile): return 0
class Builder:
    def __init__(self, logger): pass
    def create_network(self, flags): asked["strongly_typed"] = flags == 2
    def create_builder_config(self): return Config()
    def create_optimization_profile(self): return Profile()
    def build_serialized_network(self, network, config): return json.dumps(asked).encode()
class OnnxParser:
    num_errors = 1
    def __init__(self, network, logger): pass
    def get_error(self, at): return "no importer for Frobnicate"
    def parse_from_file(self, path): return open(path, "rb").read(3) != b"bad"
"""
_NVIDIA_SMI = "#!/bin/sh\necho NVIDIA H100, 9.0\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH and PYTHONPATH as on a machine with a GPU and the package, in a directory of the test's own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(_NVIDIA_SMI)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))
    monkeypatch.syspath_prepend(tmp_path / "python")
    _install(tmp_path, "11.1.0.106")
    return tmp_path


def _install(directory: Path, version: str, text: str = _PACKAGE) -> None:
    package = directory / "python" / "tensorrt"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(text.replace("VERSION", version))


def _build(
    machine: Path, content: bytes = b"graph", release: str = "26.07", exact: str | None = "11.1.0.106"
) -> dict[str, object]:
    (machine / "model.onnx").write_bytes(content)
    shapes = {"ids": tensorrt.Profile((1, 2), (4, 32), (8, 64))}
    return tensorrt.build(machine / "model.onnx", machine, shapes, target=target(release, exact))


def test_plan_is_published_under_its_architecture_and_marked_unverified(machine: Path) -> None:
    """`--tensorrt` builds with the spec's shapes in the graph's own types, and Triton finds the plan by capability."""
    command = [sys.executable, "-m", "export", "export.zoo.shapes:detector", "--repo", str(machine / "repo")]
    command += ["--name", "detector", "--max-batch", "8", "--tensorrt", "--serve-check", "off"]
    command += ["--target-tensorrt", "11.1.0.106+cuda13.3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    version = machine / "repo" / "detector" / "1"
    asked = json.loads((version / "model_sm90.plan").read_bytes())
    assert asked == {"profiles": {"features": [[1, 1, 8], [4, 20, 8], [8, 40, 8]]}, "strongly_typed": True}
    config = proto.from_text((version.parent / "config.pbtxt").read_text(), "config.pbtxt")
    assert (config.backend, dict(config.cc_model_filenames)) == ("tensorrt", {"9.0": "model_sm90.plan"})
    manifest = json.loads((version / "manifest.json").read_text())
    assert {"model.onnx", "model_sm90.plan"} == set(manifest["files"])
    assert manifest["tensorrt"]["builder"] == "tensorrt"
    assert manifest["tensorrt"]["verified"] is False
    assert manifest["target"]["tensorrt"] == manifest["tensorrt"]["tensorrt"] == "11.1.0.106"


def test_package_of_another_release_is_refused(machine: Path) -> None:
    """A plan of another major, minor or build version does not load, and of an unknown one nobody knows."""
    with pytest.raises(
        StepError, match=r"26\.05 loads plans of 10\.9\.0\.34 only; build in the container of release 26"
    ):
        _build(machine, release="26.05", exact="10.9.0.34")
    for exact in ("11.0.0.106", "11.1.0.105"):
        with pytest.raises(StepError, match=r"TensorRT 11\.1\.0\.106 is installed and Triton 26\.07 loads"):
            _build(machine, exact=exact)
    with pytest.raises(StepError, match="give --target-tensorrt"):
        _build(machine, exact=None)
    _install(machine, "10.9.0.34")
    with pytest.raises(StepError, match=r"TensorRT 10\.9\.0\.34 is installed"):
        _build(machine)
    assert not list(machine.glob("*.plan"))
    assert _build(machine, release="25.03", exact="10.9.0.34")["tensorrt"] == "10.9.0.34"


def _trtexec(machine: Path, banner: str) -> Path:
    """A trtexec that tells its version and writes the plan that it is asked for."""
    tool = machine / "bin" / "trtexec"
    line = f"echo '&&&& RUNNING TensorRT.trtexec {banner} # trtexec'"
    tool.write_text(f'#!/bin/sh\n{line}\nfor word; do case $word in --saveEngine=*) : > "${{word#*=}}";; esac; done\n')
    tool.chmod(0o755)
    return tool


@pytest.mark.parametrize("banner", ["[TensorRT v100300]", "[TensorRT v110000] [b106]", "[TensorRT v110100] [b105]"])
def test_trtexec_of_the_wrong_version_leaves_it_to_the_package(machine: Path, banner: str) -> None:
    """Of two builders the one that fits the target builds."""
    _trtexec(machine, banner)
    assert _build(machine)["builder"] == "tensorrt"


@pytest.mark.parametrize(
    ("banner", "told"),
    [
        ("[TensorRT v8601]", "8.6.1"),
        ("[TensorRT v100300]", "10.3.0"),
        ("[TensorRT v110100] [b106]", "11.1.0.106"),
    ],
)
def test_trtexecs_banner_tells_its_exact_version(machine: Path, banner: str, told: str) -> None:
    """Major, minor, patch and, where it stands there, the build; one that fits builds in the package's place."""
    assert tensorrt.version(str(_trtexec(machine, banner))) == told
    fits = told == "11.1.0.106"
    assert _build(machine)["builder"] == ("trtexec" if fits else "tensorrt")


@pytest.mark.parametrize(
    ("package", "content", "reason"),
    [
        (_PACKAGE, b"bad graph", "its parser refuses the graph: no importer for Frobnicate"),
        ("raise ImportError('libnvonnxparser.so.11: cannot open shared object file')", b"", "cannot be imported: Imp"),
        (_PACKAGE.replace("return json.dumps(asked).encode()", "return None"), b"", "gives no plan"),
        (_PACKAGE.replace("logger): pass\n    def create_n", "logger): raise TypeError('CUDA 35')\n    def create_n"),
         b"", "its builder fails: TypeError: CUDA 35"),
        (_PACKAGE + "import os\nos._exit(9)", b"", "ended its process with 9"),
    ],
)  # fmt: skip
def test_a_builder_that_cannot_says_why(machine: Path, package: str, content: bytes, reason: str) -> None:
    """Each way in which the package can fail is a refusal at tensorrt with the package's own words."""
    _install(machine, "11.1.0.106", package)
    with pytest.raises(StepError, match=reason) as caught:
        _build(machine, content)
    assert caught.value.exit_code == 18


def test_without_a_gpu_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is a refusal of its own, whatever is installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StepError, match="tied to its GPU"):
        _build(tmp_path)
