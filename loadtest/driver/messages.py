"""The messages between the Locust master and its workers, and the one file and pipe that lead out of Locust."""

from typing import Final

import msgspec

from loadtest.summary import Cell

PLAN_MESSAGE: Final = "sluice_plan"
GO_MESSAGE: Final = "sluice_go"
CELLS_MESSAGE: Final = "sluice_cells"
# Environment of the Locust process: where the plan is, where results go, and the descriptor for progress lines.
PLAN_VARIABLE: Final = "SLUICE_LOADTEST_PLAN"
OUTCOME_VARIABLE: Final = "SLUICE_LOADTEST_OUTCOME"
PROGRESS_VARIABLE: Final = "SLUICE_LOADTEST_PROGRESS_FD"


class Report(msgspec.Struct, frozen=True):
    """What a worker counted since its last report; the last one says so."""

    index: int
    cells: list[Cell]
    cpu_share: float
    last: bool


class Outcome(msgspec.Struct, frozen=True):
    """All that a run produced. `missing` workers never sent their last report, so the figures are incomplete."""

    started_at: float
    cells: list[Cell]
    cpu_shares: list[float]
    missing: int


class Progress(msgspec.Struct, frozen=True):
    """A line for the terminal, once a second; figures are those of the last few complete slices."""

    t: float
    duration_s: float
    requests: int
    errors: int
    rate_per_s: float
    p50_ms: float | None
    p99_ms: float | None
