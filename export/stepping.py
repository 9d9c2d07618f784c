"""Named steps in order, each timed, its result saved, so that a rerun resumes and a refusal leaves what tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from export import state as states
from export.errors import ExportError, LockedError, Step, StepError, UsageError
from export.run import Outcome
from export.state import State, StepReport


class Current(Protocol):
    """What a run needs to be taken through steps: its state, saved in its work directory."""

    state: State
    work: Path


R = TypeVar("R", bound=Current)


@dataclass(frozen=True, slots=True)
class StepDef(Generic[R]):
    """A row of a table of steps. Those that are not `resumable` run every time."""

    step: Step
    action: Callable[[R], Outcome]
    resumable: bool = True


FINAL = (Step.PUBLISH, Step.RELOAD)
Progress = Callable[[Step, StepReport | None], None]


def walk(current: R, steps: Sequence[StepDef[R]], progress: Progress, keep: Callable[[StepError], Path | None]) -> None:
    """Take `current` through `steps`; `keep` stores what a refusal leaves. Raises ExportError, of a step StepError."""
    for definition in steps:
        _one(current, definition, progress, keep)


def _one(current: R, definition: StepDef[R], progress: Progress, keep: Callable[[StepError], Path | None]) -> None:
    progress(definition.step, None)
    began = time.monotonic()
    try:
        report = _report(current, definition, began)
        current.state.record(report)
        if definition.step not in FINAL:  # they are repeated by nature, and a full disk must not deny what they did
            states.save(current.work / "state.json", current.state)
    except Exception as error:
        failure = _located(definition.step, error)
        if isinstance(failure, StepError):
            _failed(current, failure, time.monotonic() - began, progress, keep(failure))
        raise failure from error
    progress(definition.step, report)


def _report(current: R, definition: StepDef[R], began: float) -> StepReport:
    label = definition.step.label
    if definition.resumable and current.state.finished(label):
        earlier = next(report for report in current.state.reports if report.step == label)
        return StepReport(step=label, status="resumed", seconds=earlier.seconds, output=earlier.output)
    outcome = definition.action(current)
    return StepReport(
        step=label,
        status="skipped" if outcome.skipped else "ok",
        seconds=round(time.monotonic() - began, 3),
        message=outcome.message,
        output=outcome.output,
    )


def _located(step: Step, error: Exception) -> ExportError:
    """Usage and lock errors keep their own exit codes; the rest is the step's, whatever a library threw."""
    match error:
        case StepError() | UsageError() | LockedError():
            return error
        case ExportError():
            return StepError(step, str(error))
        case OSError():
            return StepError(step, f"{error.filename or 'the file system'}: {error.strerror or error}")
        case _:
            return StepError(step, f"{type(error).__name__}: {str(error).strip()[:600]}")


def _failed(current: Current, failure: StepError, seconds: float, progress: Progress, kept: Path | None) -> None:
    message = f"{failure} (kept: {kept})" if kept else str(failure)
    report = StepReport(step=failure.step.label, status="failed", seconds=round(seconds, 3), message=message)
    current.state.record(report)
    progress(failure.step, report)
