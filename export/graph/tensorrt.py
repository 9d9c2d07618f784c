"""TensorRT plans: they need an NVIDIA GPU and TensorRT; without them this refuses and says what is missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import Step, StepError
from export.state import AxisInfo, TensorInfo
from export.targets import Target

BUILD_S = 3600.0


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
    """The first GPU, as nvidia-smi tells it."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
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
    onnx: Path, plan: Path, shapes: Mapping[str, Profile], *, fp16: bool, strongly_typed: bool, tool: str = "trtexec"
) -> list[str]:
    """Trtexec's command line. TensorRT 11 knows no --fp16: there the precision is the graph's own."""
    arguments = [tool, f"--onnx={onnx}", f"--saveEngine={plan}", "--skipInference"]
    for flag, side in (("minShapes", "low"), ("optShapes", "usual"), ("maxShapes", "high")):
        listed = ",".join(f"{name}:{'x'.join(map(str, getattr(profile, side)))}" for name, profile in shapes.items())
        arguments.append(f"--{flag}={listed}")
    if fp16 and not strongly_typed:
        arguments.append("--fp16")
    return arguments


def build(onnx: Path, directory: Path, shapes: Mapping[str, Profile], *, fp16: bool, target: Target) -> dict[str, Any]:
    """Build a plan for the GPU here; returns the facts for config.pbtxt and manifest."""
    tool = shutil.which("trtexec")
    device = gpu()
    if device is None:
        raise StepError(
            Step.TENSORRT, "a TensorRT plan is tied to its GPU, and there is none here (nvidia-smi finds none)"
        )
    if tool is None:
        raise StepError(
            Step.TENSORRT, "trtexec is not on PATH; it comes with TensorRT and with the Triton SDK container"
        )
    here = version(tool)
    refuse_mismatch(here, target)
    plan = directory / device.plan_file
    line = command(onnx, plan, shapes, fp16=fp16, strongly_typed=target.tensorrt_strongly_typed, tool=tool)
    done = subprocess.run(line, capture_output=True, text=True, timeout=BUILD_S, check=False)
    if done.returncode != 0 or not plan.exists():
        last = [text for text in (done.stderr + done.stdout).splitlines() if "[E]" in text][-1:] or ["no message"]
        raise StepError(Step.TENSORRT, f"trtexec ended with {done.returncode}: {last[0][:300]}")
    return {"plan": plan.name, "capability": device.capability, "gpu": device.name, "tensorrt": here}


def version(tool: str) -> str:
    """TensorRT's version as trtexec prints it in its banner: `[v100300]` or `[v101600]`."""
    done = subprocess.run([tool, "--help"], capture_output=True, text=True, timeout=60, check=False)
    for word in (done.stdout + done.stderr).replace("[", " ").replace("]", " ").split():
        digits = word.removeprefix("v")
        if word.startswith("v") and digits.isdigit() and len(digits) >= 4:
            number = int(digits)
            # Since 10 the banner counts major*10000 + minor*100 + patch; before, major*1000.
            return (
                f"{number // 10000}.{number // 100 % 100}"
                if number >= 100_000
                else f"{number // 1000}.{number // 100 % 10}"
            )
    raise StepError(Step.TENSORRT, f"{tool} does not tell its version")


def refuse_mismatch(here: str, target: Target) -> None:
    """Plans load only in the TensorRT that built them: every component that the table knows must agree."""
    wanted = target.tensorrt.split(".")
    if here.split(".")[: len(wanted)] != wanted:
        raise StepError(
            Step.TENSORRT,
            f"TensorRT {here} is installed and Triton {target.release} loads plans of {target.tensorrt} only; "
            f"build in the container of release {target.release}",
        )


def accelerator(shapes: Mapping[str, Profile], *, fp16: bool, target: Target) -> dict[str, Any]:
    """`optimization` of config.pbtxt for the ONNX Runtime backend's own TensorRT accelerator."""
    parameters = {"precision_mode": "FP16"} if fp16 and not target.tensorrt_strongly_typed else {}
    for key, side in (("min", "low"), ("opt", "usual"), ("max", "high")):
        parameters[f"trt_profile_{key}_shapes"] = ",".join(
            f"{name}:{'x'.join(map(str, getattr(profile, side)))}" for name, profile in shapes.items()
        )
    parameters["trt_engine_cache_enable"] = "true"
    return {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": parameters}]}}
