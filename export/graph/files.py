"""An ONNX model on disk: one file, or (above protobuf's 2 GB) a directory with exactly one data file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

SINGLE_FILE_LIMIT = 1_500_000_000
GRAPH = "model.onnx"
DATA = "model.onnx.data"


def write(model: Any, path: Path, single_file_limit: int = SINGLE_FILE_LIMIT) -> None:
    """Write an onnx_ir model as `path`, or as `path/model.onnx` plus one data file when it is too large."""
    import onnx_ir  # noqa: PLC0415

    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    if weights < single_file_limit:
        onnx_ir.save(model, path)
        return
    path.mkdir()
    onnx_ir.save(model, path / GRAPH, external_data=DATA)


def graph_file(path: Path) -> Path:
    """The file that holds the graph itself."""
    return path / GRAPH if path.is_dir() else path


def parts(path: Path) -> list[Path]:
    """All files of the model, the graph first."""
    return sorted(path.iterdir()) if path.is_dir() else [path]


def size(path: Path) -> int:
    """Bytes of all parts."""
    return sum(part.stat().st_size for part in parts(path))


def sha256(path: Path) -> str:
    """The hash of one file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
