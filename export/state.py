"""What the pipeline knows after each step, kept on disk so that a rerun resumes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import msgspec

Status = Literal["ok", "skipped", "resumed", "failed"]


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one step went."""

    step: str
    status: Status
    seconds: float
    message: str = ""
    output: dict[str, Any] = msgspec.field(default_factory=dict)


class AxisInfo(msgspec.Struct, frozen=True):
    """A dynamic dimension: its symbol and the range it is checked in."""

    name: str
    low: int
    high: int


class TensorInfo(msgspec.Struct, frozen=True):
    """An input or output of the graph: numpy type name, and dimensions (a symbol where dynamic)."""

    name: str
    dtype: str
    shape: list[int | str]


class Observed(msgspec.Struct, frozen=True):
    """The worst of one output over all cases, against the fp32 reference.

    `excess` is |a-b| over what the tolerance allows: above 1 is a refusal. `cosine` is the least seen.
    """

    max_abs: float
    excess: float
    cosine: float
    mismatched: float
    case: str


class State(msgspec.Struct, kw_only=True):
    """Everything later steps need from earlier ones, apart from the files in the work directory."""

    fingerprint: str
    reports: list[StepReport] = msgspec.field(default_factory=list)
    source: str = ""
    inputs: list[TensorInfo] = msgspec.field(default_factory=list)
    outputs: list[TensorInfo] = msgspec.field(default_factory=list)
    axes: dict[str, dict[int, AxisInfo]] = msgspec.field(default_factory=dict)
    cases: list[str] = msgspec.field(default_factory=list)
    samples_are: Literal["user", "model", "synthetic"] = "synthetic"
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    seeds: dict[str, int] = msgspec.field(default_factory=dict)
    labels: dict[str, Any] = msgspec.field(default_factory=dict)
    weights_sha256: str = ""
    batch_independent: bool = True
    max_batch: int = 0
    fp32_nodes: list[str] = msgspec.field(default_factory=list)
    observed: dict[str, dict[str, Observed]] = msgspec.field(default_factory=dict)
    config: str = ""
    tensorrt: dict[str, Any] = msgspec.field(default_factory=dict)
    version: int | None = None

    def finished(self, step: str) -> bool:
        """Whether an earlier run took this step to its end."""
        return any(r.step == step and r.status in ("ok", "skipped", "resumed") for r in self.reports)

    def record(self, report: StepReport) -> None:
        """Add or replace the report of a step."""
        self.reports = [r for r in self.reports if r.step != report.step] + [report]


def load(path: Path, fingerprint: str) -> State | None:
    """The saved state, or None when there is none, it is damaged, or it belongs to another request."""
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None
    return state if state.fingerprint == fingerprint else None


def save(path: Path, state: State) -> None:
    """Replace the file in one rename, so that a kill leaves the old or the new state."""
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(msgspec.json.encode(state))
    os.replace(scratch, path)  # noqa: PTH105  (the call whose atomicity is meant)


def fingerprint(parts: dict[str, Any]) -> str:
    """A short hash of everything that would make a resumed run answer another question."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
