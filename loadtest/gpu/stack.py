"""What the benchmark needs of a machine: driver, CUDA libraries, ONNX Runtime, Triton; each with its remedy."""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from loadtest import servers
from loadtest.errors import BrokenRunError, MissingToolError

_PIP_S = 540.0
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
    if not cpu:
        find_libraries()
    gpus = [] if cpu else _gpus(problems)
    if find_spec("pytriton") is None:
        problems.append("Triton is not installed: pip install --no-deps nvidia-pytriton==0.7.0 (make setup does it)")
    provider = "CPUExecutionProvider" if cpu else "CUDAExecutionProvider"
    version = _onnxruntime(provider, problems)
    if not problems:
        _triton(problems)
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


def _triton(problems: list[str]) -> None:
    """Start it without a model: what it lacks (libpython, a numpy 1, glibc) is said at once, not after the exports."""
    with tempfile.TemporaryDirectory(prefix="sluice-check-") as name:
        folder = Path(name)
        (folder / "repository").mkdir()
        try:
            with servers.triton(folder / "repository", None, folder / "triton.log"):
                pass
        except (BrokenRunError, MissingToolError) as error:
            problems.append(f"Triton does not start: {error}")


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


def find_libraries() -> None:
    """Put the `nvidia/*/lib` directories of every place that Python looks into on the library path of all children.

    ONNX Runtime itself looks only beside its own package, and Triton's helper processes see only one environment's
    packages; the CUDA libraries may lie in another, as where a virtual environment was made on top of one.
    """
    places = [*sys.path, *site.getsitepackages(), sysconfig.get_paths()["purelib"]]
    found = [
        str(folder)
        for place in dict.fromkeys(places)
        if place
        for folder in sorted(Path(place).glob("nvidia/*/lib"))
        if folder.is_dir()
    ]
    known = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(dict.fromkeys(filter(None, [*known, *found])))


def join(wheels: Path) -> list[Path]:
    """Put wheels together that were carried in pieces, as `split -b 48M X.whl X.whl.part-` makes them.

    Returns:
        the wheels that were put together.

    Raises:
        MissingToolError: a piece is missing, or damaged.
    """
    pieces: dict[str, list[Path]] = {}
    for piece in sorted(wheels.glob("*.whl.part-*")):
        pieces.setdefault(piece.name.rpartition(".part-")[0], []).append(piece)
    made = []
    for name, parts in pieces.items():
        whole = wheels / name
        if whole.exists():
            continue
        draft = wheels / f"{name}.joining"
        with draft.open("wb") as sink:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, sink)
        # The list of a wheel's files is at its end: without the last piece it cannot be opened.
        problem = _damage(draft)
        if problem:
            draft.unlink()
            raise MissingToolError(f"{wheels}: the pieces of {name} ({len(parts)} found) give no wheel: {problem}")
        draft.replace(whole)
        made.append(whole)
    return made


def _damage(wheel: Path) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return str(error)
    return f"{bad} is damaged" if bad else ""


def install(wheels: Path) -> None:
    """Put every wheel of a directory into this environment as it is, without asking any index.

    Nothing is resolved: what fits and what does not is found by `check`, which runs a model. A numpy 1 goes where
    Triton's helper processes look for it. Wheels in pieces are put together first.

    Raises:
        MissingToolError: there is no ONNX Runtime for GPUs among them, a piece is missing, or a wheel does not fit.
    """
    join(wheels)
    found = sorted(wheels.glob("*.whl"))
    if not any(wheel.name.startswith("onnxruntime_gpu-") for wheel in found):
        raise MissingToolError(f"{wheels} does not hold what is needed: there is no wheel of onnxruntime-gpu")
    apart = [wheel for wheel in found if wheel.name.startswith("numpy-1.")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    quiet = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    main = [str(wheel) for wheel in found if wheel not in apart]
    tried = _pip([*pip, *quiet, "--dry-run", *main])
    if tried:
        raise MissingToolError(f"the wheels in {wheels} do not fit this Python: {tried}")
    # The two distributions of ONNX Runtime write the same files: only one may be installed.
    subprocess.run([*pip, "uninstall", "--yes", "--quiet", "onnxruntime"], check=False, timeout=_PIP_S)
    failed = _pip([*pip, *quiet, "--upgrade", *main])
    if apart and not failed:
        target = Path(sys.prefix) / "share" / "sluice" / "triton-python"
        failed = _pip([*pip, *quiet, "--upgrade", "--target", str(target), str(apart[-1])])
    if failed:
        raise MissingToolError(f"the wheels in {wheels} do not install: {failed}")


def _pip(command: Sequence[str]) -> str:
    """Run pip; the end of what it says where it fails, else nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PIP_S)
    return done.stderr.strip()[-600:] if done.returncode else ""
