"""manifest.json: everything somebody needs to trust, repeat or doubt a version."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from export.errors import ExportError
from export.numeric.tolerance import Tolerance
from export.publish.reference import Distribution
from export.publish.repository import MANIFEST, Repository
from export.state import AxisInfo, Observed, StepReport, TensorInfo

FORMAT = 1
_TOOLS = (
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "transformers",
    "numpy",
    "tensorrt",
    "mlflow-skinny",
)


class Manifest(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One version's record. `files` are sha256 by path relative to the version directory, this file left out."""

    format: int = FORMAT
    name: str
    version: int
    spec: str
    source: str
    created_at: str
    precision: str
    target: dict[str, Any]
    opset: int
    max_batch: int
    files: dict[str, str]
    graph_sha256: str
    weights_sha256: str
    config_sha256: str
    git: dict[str, Any]
    tools: dict[str, str]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    axes: dict[str, dict[int, AxisInfo]]
    cases: list[str]
    samples_are: str
    seeds: dict[str, int]
    metrics: dict[str, float]
    labels: dict[str, Any]
    tolerances: dict[str, Tolerance]
    observed: dict[str, dict[str, Observed]]
    fp32_nodes: list[str]
    tensorrt: dict[str, Any]
    reference: dict[str, Distribution]
    steps: list[StepReport]


def encode(manifest: Manifest) -> bytes:
    """Indented JSON, for people too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(data: bytes, where: str) -> Manifest:
    """The manifest; ExportError when it is damaged or of another format."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ExportError(f"{where} is not a manifest: {error}") from None
    if manifest.format != FORMAT:
        raise ExportError(f"{where} has format {manifest.format}; this release reads {FORMAT}")
    return manifest


def recorded(repository: Repository, name: str, version: int) -> Manifest | None:
    """The manifest of a version in a repository; None where there is none, or none that can be understood."""
    try:
        return decode(repository.read(name, version, MANIFEST), MANIFEST)
    except (FileNotFoundError, ExportError):
        return None


def tools() -> dict[str, str]:
    """Versions of what took part, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in ("sluice", *_TOOLS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(directory: Path) -> dict[str, Any]:
    """Commit and whether tracked files differ from it; nulls outside a repository or without git."""
    try:
        commit = _git(directory, "rev-parse", "HEAD").strip()
        dirty = bool(_git(directory, "status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout
