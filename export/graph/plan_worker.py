"""The fresh process that builds a plan with the `tensorrt` package: `python -m export.graph.plan_worker JOB.json`.

A process of its own, because TensorRT starts CUDA, and because a builder that runs out of memory takes its process
with it. Written against the API that NVIDIA documents for TensorRT 10 and 11; no GPU has run it so far.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import msgspec


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to build. Without `onnx` only the package's version is asked for.

    `profiles` gives each input's smallest, usual and largest shape.
    """

    result: str
    onnx: str = ""
    plan: str = ""
    profiles: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`error` is empty when everything that was asked for was done."""

    version: str = ""
    error: str = ""


def main(job_path: str) -> int:
    """Run the job; 0 whenever a result was written, whatever it says."""
    job = msgspec.json.decode(Path(job_path).read_bytes(), type=Job)
    try:
        trt = importlib.import_module("tensorrt")
    except Exception as error:  # noqa: BLE001  (a package without its libraries fails in many ways)
        result = Result(error=f"the tensorrt package cannot be imported: {_line(error)}")
    else:
        result = Result(version=trt.__version__, error=_build(trt, job) if job.onnx else "")
    Path(job.result).write_bytes(msgspec.json.encode(result))
    return 0


def _build(trt: Any, job: Job) -> str:
    try:
        logger = trt.Logger(trt.Logger.WARNING)
        builder = trt.Builder(logger)  # TypeError or RuntimeError when CUDA cannot be started
        # The graph's own types hold, float32 nodes of a float16 graph included. TensorRT 11 has no other mode and
        # ignores the flag; in 10 a builder flag FP16 would let it round those nodes too.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(job.onnx):
            found = [str(parser.get_error(at)) for at in range(parser.num_errors)] or ["no message"]
            return f"its parser refuses the graph: {found[0][:300]}"
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for name, (low, usual, high) in job.profiles.items():
            profile.set_shape(name, low, usual, high)
        if config.add_optimization_profile(profile) < 0:
            return f"its builder refuses the shape profile {job.profiles}"
        plan = builder.build_serialized_network(network, config)
    except Exception as error:  # noqa: BLE001  (pybind11 raises whatever it likes)
        return f"its builder fails: {_line(error)}"
    if plan is None:
        return "its builder gives no plan; its messages are above"
    Path(job.plan).write_bytes(plan)
    return ""


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:300]}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
