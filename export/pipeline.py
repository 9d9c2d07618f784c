"""The pipeline: named steps in order, each timed, its result saved, nothing published unless all agree."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import state as states
from export import steps_model, steps_publish, steps_serve
from export.errors import ExportError, LockedError, Step, StepError, UsageError
from export.failures import keep
from export.load.loaded import Loaded
from export.publish import lock
from export.publish.manifest import tools
from export.publish.open import open_repository
from export.request import ExportRequest
from export.run import Outcome, Run
from export.spec import FactorySpec, HuggingFaceSpec, MlflowSpec, Spec, parse
from export.state import State, StepReport
from export.targets import target


@dataclass(frozen=True, slots=True)
class StepDef:
    """A row of the pipeline's table. Steps that are not `resumable` run every time."""

    step: Step
    action: Callable[[Run], Outcome]
    resumable: bool = True


STEPS: tuple[StepDef, ...] = (
    StepDef(Step.PREFLIGHT, steps_model.preflight, resumable=False),
    StepDef(Step.LOAD, steps_model.load),
    StepDef(Step.EXPORT, steps_model.export),
    StepDef(Step.STRIP, steps_model.strip),
    StepDef(Step.STRUCTURE, steps_model.structure),
    StepDef(Step.PRECISION, steps_model.precision),
    StepDef(Step.PARITY, steps_model.parity),
    StepDef(Step.INDEPENDENCE, steps_model.independence),
    StepDef(Step.TENSORRT, steps_model.tensorrt),
    StepDef(Step.CONFIG, steps_publish.config, resumable=False),
    StepDef(Step.SERVE_CHECK, steps_serve.serve_check, resumable=False),
    StepDef(Step.PUBLISH, steps_publish.publish, resumable=False),
    StepDef(Step.RELOAD, steps_serve.reload, resumable=False),
)


_FINAL = (Step.PUBLISH, Step.RELOAD)


@dataclass(frozen=True, slots=True)
class Result:
    """`version` is None after a dry run. `seconds` is the whole run."""

    name: str
    version: int | None
    repo: str
    reports: tuple[StepReport, ...]
    seconds: float


Progress = Callable[[Step, StepReport | None], None]


def run(request: ExportRequest, progress: Progress = lambda _step, _report: None) -> Result:
    """Export, judge and publish. `progress` hears of each step twice: without a report when it starts, with one after.

    Raises ExportError (its `exit_code` is documented in docs/export.md); StepError names the step. Whatever is raised,
    nothing was published, unless the step is `reload`, whose message says what it took back.
    """
    began = time.monotonic()
    spec = parse(request.spec)
    release = target(request.target_triton)
    repository = open_repository(request.repo, create=True)
    mark = states.fingerprint(_identity(request, spec))
    work = (request.work or repository.side / "work") / f"{request.name}-{mark}"
    with lock.hold(work.with_name(f"{work.name}.lock"), request.lock_timeout_s, remove=True):
        if request.fresh:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        saved = states.load(work / "state.json", mark)
        state = saved or State(fingerprint=mark, source=type(spec).__name__.removesuffix("Spec").lower())
        current = Run(request, spec, release, repository, work, state, _loader(spec, request))
        for definition in STEPS:
            if request.dry_run and definition.step in _FINAL:
                continue
            _one(current, definition, progress)
        shutil.rmtree(work, ignore_errors=True)
    return Result(request.name, state.version, repository.url, tuple(state.reports), time.monotonic() - began)


def _one(current: Run, definition: StepDef, progress: Progress) -> None:
    progress(definition.step, None)
    began = time.monotonic()
    try:
        report = _report(current, definition, began)
        current.state.record(report)
        if definition.step not in _FINAL:  # they are repeated by nature, and a full disk must not deny what they did
            states.save(current.work / "state.json", current.state)
    except Exception as error:
        failure = _located(definition.step, error)
        _failed(current, failure, time.monotonic() - began, progress)
        raise failure from error
    progress(definition.step, report)


def _report(current: Run, definition: StepDef, began: float) -> StepReport:
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


def _failed(current: Run, failure: ExportError, seconds: float, progress: Progress) -> None:
    if not isinstance(failure, StepError):
        return
    kept = keep(current, failure)
    message = f"{failure} (kept: {kept})" if kept else str(failure)
    report = StepReport(step=failure.step.label, status="failed", seconds=round(seconds, 3), message=message)
    current.state.record(report)
    progress(failure.step, report)


def _loader(spec: Spec, request: ExportRequest) -> Callable[[], Loaded]:
    def load() -> Loaded:
        from export.load import load as load_spec  # noqa: PLC0415  (torch comes in here)
        from export.load.samples import read_samples  # noqa: PLC0415

        return load_spec(spec, trust=request.trust, samples=read_samples(request.samples))

    return load


_IRRELEVANT = {
    "repo",
    "promote",
    "work",
    "fresh",
    "dry_run",
    "lock_timeout_s",
    "triton",
    "serve_check",
    "version",
    "reconfigure",
}


def _identity(request: ExportRequest, spec: Spec) -> dict[str, Any]:
    return {
        "request": request.model_dump(mode="json", exclude=_IRRELEVANT),
        "source": _source_hash(spec),
        "samples": _digest(request.samples),
        "tools": tools(),
    }


def _source_hash(spec: Spec) -> str:
    match spec:
        case FactorySpec(module=module):
            try:
                found = importlib.util.find_spec(module)
            except (ImportError, ValueError):
                return module
            return _digest(Path(found.origin)) if found and found.origin else module
        case MlflowSpec(uri=uri):
            return uri
        case HuggingFaceSpec(path=path):
            return ",".join(
                f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in sorted(path.iterdir())
            )
        case _:
            return _digest(spec.path)


def _digest(path: Path | None) -> str:
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
