"""The GPU benchmark's own code, on a processor: the same stages, servers, searches and page."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from export.zoo import digits, large, minilm
from gateway.configfile import load_routes
from loadtest.errors import MissingToolError
from loadtest.gpu import models, report, stack
from loadtest.gpu.measure import worker_counts
from loadtest.gpu.stack import parse_gpu
from loadtest.gpu.watch import Watch
from loadtest.scenario import Scenario

_ZOO = {"export.zoo.digits": digits, "export.zoo.large": large, "export.zoo.minilm": minilm}
_EVERY = [*models.GPU, *models.CPU]


def bench(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m loadtest.gpu` to its end."""
    command = [sys.executable, "-m", "loadtest.gpu", *options]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=env)


# It exports, starts two servers four times and probes: half a minute, and many times that on a busy machine.
@pytest.mark.timeout(660)
@pytest.mark.slow
def test_the_whole_benchmark_on_a_processor(tmp_path: Path) -> None:
    """Export, knees in every way, the comparison: a page with all of it and without gaps, in one short run."""
    page = tmp_path / "page.md"
    short = ["--smoke", "--each", "3", "--compare", "8"]
    chosen = ["--cpu", "--model", "digits", "--precision", "fp32"]
    result = bench(*chosen, *short, "--folder", str(tmp_path / "work"), "--page", str(page))
    assert result.returncode == 0, result.stdout + result.stderr
    text = page.read_text()
    assert "No GPU was at hand" in text
    for way in ("straight to Triton", "gateway, canary and shadow", "arm=direct", "arm=gateway"):
        assert f"| {way} |" in text
    assert "not measured" not in text
    assert re.search(r"\| straight to Triton \| .* \| \d+ of \d+ \(below [\d.]+ %\) \|", text)
    assert re.search(r"Batches that Triton formed in that run: \d+\.\d+ rows", text)
    picture = re.search(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert picture
    assert (tmp_path / picture[1]).read_text().startswith("<svg")
    assert str(tmp_path) not in text
    assert 'make gpu-bench GPU_BENCH_FLAGS="--cpu --model digits' in text


def test_a_machine_without_a_gpu_is_told_what_to_do(tmp_path: Path) -> None:
    """Every problem at once, each with its remedy; exit code 4."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    result = bench("--check", PATH=str(tools))
    assert result.returncode == 4
    assert "install it, or measure a CPU with --cpu" in result.stderr
    if "CUDAExecutionProvider" not in result.stderr:
        pytest.fail(f"nothing about ONNX Runtime:\n{result.stderr}")
    assert "pip install 'sluice[gpu]'" in result.stderr


def test_a_driver_that_sees_no_gpu_is_reported(tmp_path: Path) -> None:
    """What nvidia-smi says is part of the message."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'No devices were found' >&2\nexit 6\n")
    fake.chmod(0o755)
    result = bench("--check", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert result.returncode == 4
    assert "No devices were found" in result.stderr


def test_a_directory_without_the_wheels_changes_nothing(tmp_path: Path) -> None:
    """Exit code 4 before anything is taken out of the environment."""
    result = bench("--check", "--wheels", str(tmp_path))
    assert result.returncode == 4
    assert "does not hold what is needed" in result.stderr
    assert find_spec("onnxruntime") is not None


def test_wheels_in_pieces_are_put_together(tmp_path: Path) -> None:
    """In order, once; a missing last piece is noticed and leaves no wheel behind."""
    whole = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("thing.py", "x = 1\n" * 200)
    content = whole.read_bytes()
    whole.unlink()
    size = len(content) // 3 + 1
    for i, name in enumerate(("aa", "ab", "ac")):
        (tmp_path / f"{whole.name}.part-{name}").write_bytes(content[i * size : (i + 1) * size])
    assert stack.join(tmp_path) == [whole]
    assert whole.read_bytes() == content
    assert stack.join(tmp_path) == []
    whole.unlink()
    (tmp_path / f"{whole.name}.part-ac").unlink()
    with pytest.raises(MissingToolError, match="2 found"):
        stack.join(tmp_path)
    assert not whole.exists()


def test_cuda_libraries_of_another_environment_are_found(tmp_path: Path) -> None:
    """Directories nvidia/*/lib on Python's path go to the library path of what is started."""
    lib = tmp_path / "nvidia" / "cu13" / "lib"
    lib.mkdir(parents=True)
    code = "import os; from loadtest.gpu import stack; stack.find_libraries(); print(os.environ['LD_LIBRARY_PATH'])"
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "LD_LIBRARY_PATH": "/before"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert shown.stdout.strip().split(":")[0] == "/before"
    assert str(lib) in shown.stdout.strip().split(":")


def test_the_processor_needs_no_gpu() -> None:
    """--cpu --check passes where the test suite runs."""
    result = bench("--cpu", "--check")
    assert result.returncode == 0, result.stderr
    assert "CPUExecutionProvider" in result.stderr


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    """With the names that there are; exit code 2."""
    result = bench("--cpu", "--model", "resnet", "--folder", str(tmp_path))
    assert result.returncode == 2
    assert "digits, minilm" in result.stderr


@pytest.mark.parametrize("model", _EVERY, ids=lambda model: model.name)
def test_scenarios_and_routes_are_valid(model: models.Model, tmp_path: Path) -> None:
    """What is handed to the load test and to the gateway passes their own checks; the SPEC exists."""
    Scenario.model_validate(models.scenario(model, f"{model.name}-fp16"))
    for delivery in (False, True):
        file = tmp_path / "routes.yaml"
        file.write_text(yaml.safe_dump(models.routes(f"{model.name}-fp16", delivery=delivery)))
        (route,) = load_routes(file).routes
        assert len(route.shadows) == delivery
    module, _, factory = model.spec.partition(":")
    assert callable(getattr(_ZOO[module], factory))


def test_the_models_promised_for_a_gpu_are_there() -> None:
    """ResNet-50, a BERT-class encoder and MiniLM."""
    assert [model.name for model in models.GPU] == ["resnet50", "distilbert", "minilm"]


@pytest.mark.parametrize(
    ("wanted", "cores", "counts"),
    [((), 1, (1,)), ((), 2, (1,)), ((), 4, (1, 2)), ((), 16, (1, 2, 4, 8)), ((3, 1, 3), 2, (1, 3))],
)
def test_numbers_of_workers(wanted: tuple[int, ...], cores: int, counts: tuple[int, ...]) -> None:
    """Those asked for, else powers of two up to half of the cores."""
    assert worker_counts(wanted, cores) == counts


@pytest.mark.parametrize(
    ("failed", "requests", "shown"),
    [
        (0, 3000, "0 of 3,000 (below 0.0998 %)"),
        (0, 299, "0 of 299 (below 0.997 %)"),
        (2, 1000, "2 of 1,000 (below 0.628 %)"),
        (7, 7, "7 of 7 (below 100 %)"),
        (0, 0, "0 of 0 (below 100 %)"),
    ],
)
def test_failures_are_shown_with_what_they_prove(failed: int, requests: int, shown: str) -> None:
    """The bound of Clopper and Pearson: without a failure some 3 over the number of requests, with some more."""
    assert report.failures(failed, requests) == shown


def test_a_gpu_is_read_from_nvidia_smi() -> None:
    """Name, driver, memory and compute capability."""
    gpu = parse_gpu("NVIDIA H100 80GB HBM3, 570.86.15, 81559, 9.0")
    assert (gpu.name, gpu.driver, gpu.memory_mib, gpu.compute) == ("NVIDIA H100 80GB HBM3", "570.86.15", 81559, "9.0")


def test_a_watch_adds_up_what_it_sees() -> None:
    """Means and highest values; lines without figures do not count, and no line means nothing is known."""
    watch = Watch()
    assert watch.summary() is None
    for line in ("50, 1000, 200.5", "[N/A], [N/A], [N/A]", "", "90, 1500, 300.5"):
        watch.take(line)
    assert watch.summary() == {
        "utilization_mean": 70.0,
        "utilization_max": 90.0,
        "memory_max_mib": 1500.0,
        "power_mean_w": 250.5,
        "samples": 2,
    }


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU here")
def test_a_machine_with_a_gpu_can_run_it() -> None:
    """The check passes with CUDA."""
    result = bench("--check")
    assert result.returncode == 0, result.stderr
