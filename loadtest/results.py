"""The result of a run as it is stored: enough to judge, plot and compare it later without the run."""

from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest.errors import UsageError
from loadtest.objectives import Judgement, Verdict
from loadtest.plan import Arm
from loadtest.summary import Cell, Group

FORMAT: Final = "sluice.loadtest/1"


class BatchSizes(msgspec.Struct, frozen=True):
    """Batches that Triton formed during the run: size to number of executions, for each `model:version`."""

    executions: dict[str, dict[int, int]]
    requests: dict[str, int]
    queue_ms: dict[str, float]
    compute_ms: dict[str, float]


class GeneratorFacts(msgspec.Struct, frozen=True):
    """Whether the load generator itself was the limit: CPU shares near 1 say so."""

    processes: int
    cpu_shares: list[float]
    missing: int


class Result(msgspec.Struct, frozen=True):
    """A run: what was asked for, what happened in each slice of time, the figures, and the verdicts."""

    format: str
    scenario: dict[str, Any]
    arms: list[Arm]
    started_at: str
    duration_s: float
    warmup_s: float
    slice_s: float
    arm_slice_s: float
    offered_per_s: dict[str, float] | None
    instances: int
    machine: dict[str, Any]
    generator: GeneratorFacts
    groups: list[Group]
    cells: list[Cell]
    batch_sizes: BatchSizes | None
    objectives: list[Judgement]
    verdict: Verdict
    notes: list[str]


def write(path: Path, result: msgspec.Struct) -> None:
    """Store as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(msgspec.json.encode(result) + b"\n")
    draft.replace(path)


def read(path: Path) -> Result:
    """A stored result.

    Raises:
        UsageError: the file is missing, or is not a result of this format.
    """
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None
    except msgspec.DecodeError as e:
        raise UsageError(f"{path}: not a load test result: {e}") from None
    if result.format != FORMAT:
        raise UsageError(f"{path}: format {result.format}, this version reads {FORMAT}")
    return result
