"""Steps of the pipeline, and one exit code for each way it can end."""

from __future__ import annotations

from enum import Enum


class Step(Enum):
    """A named step, in running order; the value is the exit code when that step refuses."""

    PREFLIGHT = 10
    LOAD = 11
    EXPORT = 12
    STRIP = 13
    STRUCTURE = 14
    PRECISION = 15
    PARITY = 16
    INDEPENDENCE = 17
    TENSORRT = 18
    CONFIG = 19
    SERVE_CHECK = 20
    PUBLISH = 21
    RELOAD = 22

    @property
    def label(self) -> str:
        """The name shown to users and written in manifests: lower case, with hyphens."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def from_label(cls, label: str) -> Step:
        """The step that `label` names; KeyError when there is none."""
        return cls[label.upper().replace("-", "_")]


EXIT_OK = 0
EXIT_USAGE = 2
EXIT_REPOSITORY = 30
EXIT_CHECK = 31
EXIT_LOCKED = 32
EXIT_TUNE = 33
EXIT_INTERRUPTED = 130


class ExportError(Exception):
    """Something is wrong that the caller can put right; `str()` says what and where."""

    exit_code = EXIT_REPOSITORY


class UsageError(ExportError):
    """The request itself makes no sense."""

    exit_code = EXIT_USAGE


class LockedError(ExportError):
    """Another publisher holds the model, or took it from one that was silent for too long; nothing was published."""

    exit_code = EXIT_LOCKED


class StepError(ExportError):
    """A step refused the model. Nothing was published.

    `evidence` holds arrays worth keeping (the worst samples), by name.
    """

    def __init__(self, step: Step, message: str, evidence: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.evidence = evidence or {}

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """The documented exit code of the step."""
        return self.step.value
