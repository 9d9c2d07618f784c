"""What the benchmark needs of a machine: driver, CUDA libraries, ONNX Runtime, Triton; each with its remedy."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from loadtest.errors import MissingToolError

_QUERY = "name,driver_version,memory.total,compute_cap"
# Runs in a process of its own: a CUDA library that does not fit may end it.
_PROBE = """
import json, sys
import numpy, onnxruntime
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
wanted = sys.argv[1]
found = onnxruntime.get_available_providers()
used = []
if wanted in found:
    if wanted.startswith("CUDA"):
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[wanted])
    session.run(None, {"x": numpy.ones(1, numpy.float32)})
    used = session.get_providers()
print(json.dumps({"version": onnxruntime.__version__, "found": found, "used": used}))
"""


class Gpu(msgspec.Struct, frozen=True):
    """One GPU as nvidia-smi names it; memory in MiB."""

    name: str
    driver: str
    memory_mib: int
    compute: str


class Stack(msgspec.Struct, frozen=True):
    """What was found. `device` names the machine's GPU, or its processor where none is used."""

    device: str
    gpus: list[Gpu]
    onnxruntime: str
    provider: str


def check(*, cpu: bool, processor: str) -> Stack:
    """Looks at everything.

    Raises:
        MissingToolError: with every problem and what mends it, one a line.
    """
    problems: list[str] = []
    gpus = [] if cpu else _gpus(problems)
    if find_spec("pytriton") is None:
        problems.append("Triton is not installed: pip install --no-deps nvidia-pytriton==0.7.0 (make setup does it)")
    provider = "CPUExecutionProvider" if cpu else "CUDAExecutionProvider"
    version = _onnxruntime(provider, problems)
    if problems:
        raise MissingToolError("this machine cannot run the benchmark:\n" + "\n".join(f"- {p}" for p in problems))
    device = processor if cpu else " + ".join(sorted({gpu.name for gpu in gpus}))
    return Stack(device, gpus, version, provider)


def _gpus(problems: list[str]) -> list[Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        problems.append("no NVIDIA driver (nvidia-smi is not there): install it, or measure a CPU with --cpu")
        return []
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if shown.returncode or not shown.stdout.strip():
        problems.append(f"nvidia-smi sees no GPU: {(shown.stderr or shown.stdout).strip()[:300]}")
        return []
    return [parse_gpu(line) for line in shown.stdout.strip().splitlines()]


def parse_gpu(line: str) -> Gpu:
    """One line of nvidia-smi's answer."""
    name, driver, memory, compute = (part.strip() for part in line.split(","))
    return Gpu(name, driver, int(float(memory)), compute)


def _onnxruntime(provider: str, problems: list[str]) -> str:
    command = [sys.executable, "-c", _PROBE, provider]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if shown.returncode:
        reason = shown.stderr.strip().splitlines()[-1:] or [f"it ended with {shown.returncode}"]
        problems.append(f"ONNX Runtime does not run a model with {provider}: {reason[0][:300]}")
        return ""
    found = json.loads(shown.stdout.strip().splitlines()[-1])
    if provider not in found["found"]:
        problems.append(
            f"ONNX Runtime {found['version']} has no {provider}: in this environment, pip uninstall onnxruntime, then "
            "pip install 'sluice[gpu]'; offline, give --wheels DIR"
        )
    elif provider not in found["used"]:
        problems.append(
            f"ONNX Runtime could not start {provider}: its CUDA and cuDNN libraries are missing or of another major "
            "version; pip install 'sluice[gpu]' brings them"
        )
    return str(found["version"])


def install(wheels: Path, packages: Sequence[str]) -> None:
    """Puts packages from a directory of wheels into this environment, without asking any index.

    Raises:
        MissingToolError: a wheel is not there, or does not fit.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-index", "--find-links", str(wheels)]
    tried = subprocess.run([*install, "--dry-run", *packages], capture_output=True, text=True, check=False, timeout=300)
    if tried.returncode:
        raise MissingToolError(f"{wheels} does not hold what is needed: {tried.stderr.strip()[-600:]}")
    # The two distributions of ONNX Runtime write the same files: only one may be installed.
    subprocess.run([*pip, "uninstall", "--yes", "--quiet", "onnxruntime"], check=False, timeout=300)
    done = subprocess.run([*install, *packages], capture_output=True, text=True, check=False, timeout=540)
    if done.returncode:
        raise MissingToolError(f"the wheels in {wheels} do not install: {done.stderr.strip()[-600:]}")
