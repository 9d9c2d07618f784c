"""TensorRT plans: they need an NVIDIA GPU and TensorRT; without them this refuses and says what is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from export.errors import Step, StepError
from export.graph import plan_worker
from export.state import AxisInfo, TensorInfo
from export.targets import Target

BUILD_S = 3600.0
PACKAGE = "tensorrt"
_EXACT = 3  # components that a version needs to be more than a series of versions
_BANNER = re.compile(r"\bv(?P<number>\d{4,})\b\]?(?:\s+\[b(?P<build>\d+)\])?")
_NUMBERS = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that a plan is tied to; `capability` reads like 9.0."""

    name: str
    capability: str

    @property
    def plan_file(self) -> str:
        """The file name that says which architecture may load it."""
        return f"model_sm{self.capability.replace('.', '')}.plan"


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes of one input: smallest, usual and largest, the batch first."""

    low: tuple[int, ...]
    usual: tuple[int, ...]
    high: tuple[int, ...]


def gpu() -> Gpu | None:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves, as nvidia-smi tells it."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    if first := os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]:
        command += ["-i", first]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    name, _, capability = (done.stdout.splitlines() or [""])[0].partition(", ")
    return Gpu(name, capability.strip()) if done.returncode == 0 and capability else None


def profiles(
    inputs: Sequence[TensorInfo], axes: Mapping[str, Mapping[int, AxisInfo]], max_batch: int
) -> dict[str, Profile]:
    """Shape ranges of every input, from the batch and the dynamic axes."""
    found = {}
    for info in inputs:
        dims = axes.get(info.name, {})
        low, usual, high = [1], [max(1, max_batch // 2)], [max_batch]
        for at, size in enumerate(info.shape[1:], 1):
            if isinstance(size, int):
                ends = (size, size, size)
            elif at in dims:
                ends = (dims[at].low, (dims[at].low + dims[at].high) // 2, dims[at].high)
            else:
                raise StepError(
                    Step.TENSORRT, f"dimension {at} of {info.name!r} varies, but nothing says in which range"
                )
            for side, value in zip((low, usual, high), ends, strict=True):
                side.append(value)
        found[info.name] = Profile(tuple(low), tuple(usual), tuple(high))
    return found


def command(
    onnx: Path, plan: Path, shapes: Mapping[str, Profile], *, strongly_typed: bool, tool: str = "trtexec"
) -> list[str]:
    """Trtexec's command line. The graph's own types hold: in TensorRT 10 that is asked for, 11 knows nothing else.

    With TensorRT 10's --fp16 the nodes that must stay in float32 would be rounded all the same.
    """
    arguments = [tool, f"--onnx={onnx}", f"--saveEngine={plan}", "--skipInference"]
    for flag, side in (("minShapes", "low"), ("optShapes", "usual"), ("maxShapes", "high")):
        listed = ",".join(f"{name}:{'x'.join(map(str, getattr(profile, side)))}" for name, profile in shapes.items())
        arguments.append(f"--{flag}={listed}")
    if not strongly_typed:
        arguments.append("--stronglyTyped")
    return arguments


def build(onnx: Path, directory: Path, shapes: Mapping[str, Profile], *, target: Target) -> dict[str, Any]:
    """Build a plan for the GPU here with the first builder whose version `target` loads: trtexec, else the package.

    Returns the facts for config.pbtxt and manifest. StepError says what is missing, or what each builder's version is.
    """
    device = gpu()
    if device is None:
        raise StepError(
            Step.TENSORRT, "a TensorRT plan is tied to its GPU, and there is none here (nvidia-smi finds none)"
        )
    plan = directory / device.plan_file
    plan.unlink(missing_ok=True)
    facts = {"plan": plan.name, "capability": device.capability, "gpu": device.name}
    misfits = []
    for builder, here in _builders(directory):
        if (misfit := mismatch(here, target)) is not None:
            misfits.append(f"{builder}: {misfit}")
        elif builder == PACKAGE:
            _with_package(onnx, plan, shapes, directory)
            return {**facts, "tensorrt": here, "builder": PACKAGE}
        else:
            _with_trtexec(builder, onnx, plan, shapes, target)
            return {**facts, "tensorrt": here, "builder": "trtexec"}
    if misfits:
        raise StepError(Step.TENSORRT, f"{'; '.join(misfits)}; build in the container of release {target.release}")
    raise StepError(
        Step.TENSORRT,
        "neither trtexec is on PATH nor the Python package tensorrt installed; "
        "the Triton SDK container of the target release has both",
    )


def _builders(directory: Path) -> Iterator[tuple[str, str]]:
    """What could build a plan here, with its TensorRT version."""
    if (tool := shutil.which("trtexec")) is not None:
        yield tool, version(tool)
    if importlib.util.find_spec(PACKAGE) is not None:
        yield PACKAGE, _package(plan_worker.Job(result=str(directory / "plan.result.json")), directory)


def _with_trtexec(tool: str, onnx: Path, plan: Path, shapes: Mapping[str, Profile], target: Target) -> None:
    line = command(onnx, plan, shapes, strongly_typed=target.tensorrt_strongly_typed, tool=tool)
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=BUILD_S, check=False, env=_environment())
    except subprocess.TimeoutExpired:
        raise StepError(Step.TENSORRT, f"trtexec did not finish within {BUILD_S:.0f} s") from None
    if done.returncode != 0 or not plan.exists():
        last = [text for text in (done.stderr + done.stdout).splitlines() if "[E]" in text][-1:] or ["no message"]
        raise StepError(Step.TENSORRT, f"trtexec ended with {done.returncode}: {last[0][:300]}")


def _with_package(onnx: Path, plan: Path, shapes: Mapping[str, Profile], directory: Path) -> None:
    profiles_of = {name: (shape.low, shape.usual, shape.high) for name, shape in shapes.items()}
    result = str(directory / "plan.result.json")
    _package(plan_worker.Job(result=result, onnx=str(onnx), plan=str(plan), profiles=profiles_of), directory)


def _package(job: plan_worker.Job, directory: Path) -> str:
    """Run a job with the Python package in a fresh process; returns its version, StepError carries its reason."""
    path, result = directory / "plan.job.json", Path(job.result)
    path.write_bytes(msgspec.json.encode(job))
    result.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "export.graph.plan_worker", str(path)],
            capture_output=True, text=True, timeout=BUILD_S, check=False, env=_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StepError(Step.TENSORRT, f"the tensorrt package did not finish within {BUILD_S:.0f} s") from None
    last = " ".join((done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1:])[:300]
    if done.returncode != 0 or not result.exists():
        raise StepError(Step.TENSORRT, f"the tensorrt package ended its process with {done.returncode}: {last}")
    found = msgspec.json.decode(result.read_bytes(), type=plan_worker.Result)
    if found.error:
        raise StepError(Step.TENSORRT, f"the tensorrt package {found.version}: {found.error} ({last})")
    return found.version


def _environment() -> dict[str, str]:
    """CUDA counts GPUs as nvidia-smi does, so that the plan is built on the one it is named after."""
    return {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def version(tool: str) -> str:
    """TensorRT's version as trtexec prints it in its banner: `[TensorRT v100300] [b26]`; old ones tell no build."""
    done = subprocess.run([tool, "--help"], capture_output=True, text=True, timeout=60, check=False)
    found = _BANNER.search(done.stdout + done.stderr)
    if found is None:
        raise StepError(Step.TENSORRT, f"{tool} does not tell its version")
    number = int(found["number"])
    # Since 10 the banner counts major*10000 + minor*100 + patch; before, major*1000 + minor*100 + patch.
    major = number // 10_000 if number >= 100_000 else number // 1000
    minor = number // 100 % (100 if number >= 100_000 else 10)
    return f"{major}.{minor}.{number % 100}" + (f".{found['build']}" if found["build"] else "")


def mismatch(here: str, target: Target) -> str | None:
    """Why a plan that `here` builds would not load; None when it would.

    Plans load only in the very TensorRT that built them, down to the build number, unless they are built version
    compatible, which none is here: such plans are slower, and Triton loads them only when it was started for them.
    """
    wanted = target.tensorrt.split(".")
    if len(wanted) < _EXACT:
        return (
            f"TensorRT {here} is installed, a plan loads only in the very version that built it, and of Triton "
            f"{target.release} only the major version {target.tensorrt} is known: give --target-tensorrt"
        )
    # Where one side does not tell its build number, three components decide.
    if all(mine == theirs for mine, theirs in zip(_NUMBERS.findall(here), wanted, strict=False)):
        return None
    return f"TensorRT {here} is installed and Triton {target.release} loads plans of {target.tensorrt} only"


def accelerator(shapes: Mapping[str, Profile], *, fp16: bool, target: Target) -> dict[str, Any]:
    """`optimization` of config.pbtxt for the ONNX Runtime backend's own TensorRT accelerator."""
    parameters = {"precision_mode": "FP16"} if fp16 and not target.tensorrt_strongly_typed else {}
    for key, side in (("min", "low"), ("opt", "usual"), ("max", "high")):
        parameters[f"trt_profile_{key}_shapes"] = ",".join(
            f"{name}:{'x'.join(map(str, getattr(profile, side)))}" for name, profile in shapes.items()
        )
    parameters["trt_engine_cache_enable"] = "true"
    return {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": parameters}]}}
