"""The result of a run as it is stored: enough to judge, plot and compare it later without the run."""

from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest import selector
from loadtest.compare import Comparison, Side
from loadtest.errors import FileError, UsageError
from loadtest.objectives import Judgement, Verdict
from loadtest.plan import Arm
from loadtest.slices import Slicing
from loadtest.summary import Cell, Group, select

FORMAT: Final = "sluice.loadtest/1"


class BatchMoment(msgspec.Struct, frozen=True):
    """Batches of one stretch of a run, `start_s` to `end_s` seconds after its start, for each `model:version`.

    `executions` maps size to number; `queue_ms` is the mean wait of a request in Triton's queue. A model that did
    nothing in the stretch is left out.
    """

    start_s: float
    end_s: float
    executions: dict[str, dict[int, int]]
    queue_ms: dict[str, float]


class BatchSizes(msgspec.Struct, frozen=True):
    """Batches that Triton formed during the run: size to number of executions, for each `model:version`.

    `series` has the same over time; its stretches add up to the whole.
    """

    executions: dict[str, dict[int, int]]
    requests: dict[str, int]
    queue_ms: dict[str, float]
    compute_ms: dict[str, float]
    series: list[BatchMoment] = []


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
    offered_per_s: dict[str, float] | None
    instances: int
    machine: dict[str, Any]
    generator: GeneratorFacts
    groups: list[Group]
    cells: list[Cell]
    batch_sizes: BatchSizes | None
    comparison: Comparison | None
    objectives: list[Judgement]
    verdict: Verdict
    notes: list[str]

    @property
    def slicing(self) -> Slicing:
        """How its time was cut and shared by the arms."""
        return Slicing(self.duration_s, self.slice_s, len(self.arms))


def side(result: Result, where: str, name: str) -> Side:
    """The part of a run that a selector names, as a side of a comparison; the first arm unless it names one.

    Raises:
        UsageError: the run has no such arm, or nothing matches.
    """
    arms = [arm.name for arm in result.arms]
    chosen = selector.parse(where).get("arm", arms[0])
    if chosen not in arms:
        raise UsageError(f"selector `{where}`: the run has the arms {', '.join(arms)}")
    cells = [c for c in select(result.cells, where) if c.arm == chosen]
    if not cells:
        raise UsageError(f"selector `{where}`: nothing in the run matches")
    return Side(name, cells, result.slicing.whole(arms.index(chosen), result.warmup_s), result.slice_s)


def write(path: Path, result: msgspec.Struct) -> None:
    """Store as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(msgspec.json.encode(result) + b"\n")
    draft.replace(path)


def read(path: Path) -> Result:
    """A stored result.

    Raises:
        FileError: the file is missing, or is not a result of this format.
    """
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except OSError as e:
        raise FileError(f"{path}: {e.strerror}") from None
    except msgspec.DecodeError as e:
        raise FileError(f"{path}: not a load test result: {e}") from None
    if result.format != FORMAT:
        raise FileError(f"{path}: format {result.format}, this version reads {FORMAT}")
    return result
