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
from export.errors import Step
from export.failures import keep_export
from export.load.loaded import Loaded
from export.publish import lock
from export.publish.manifest import tools
from export.publish.open import open_repository
from export.request import ExportRequest
from export.run import Run
from export.spec import FactorySpec, HuggingFaceSpec, MlflowSpec, Spec, parse
from export.state import State, StepReport
from export.stepping import FINAL, Progress, StepDef, walk
from export.targets import target

STEPS: tuple[StepDef[Run], ...] = (
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


@dataclass(frozen=True, slots=True)
class Result:
    """`version` is None after a dry run. `seconds` is the whole run."""

    name: str
    version: int | None
    repo: str
    reports: tuple[StepReport, ...]
    seconds: float


def run(request: ExportRequest, progress: Progress = lambda _step, _report: None) -> Result:
    """Export, judge and publish. `progress` hears of each step twice: without a report when it starts, with one after.

    Raises ExportError (its `exit_code` is documented in docs/export.md); StepError names the step. Whatever is raised,
    nothing was published, unless the step is `reload`, whose message says what it took back.
    """
    began = time.monotonic()
    spec = parse(request.spec)
    release = target(request.target_triton, request.target_tensorrt)
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
        steps = [row for row in STEPS if not (request.dry_run and row.step in FINAL)]
        walk(current, steps, progress, lambda failure: keep_export(current, failure))
        shutil.rmtree(work, ignore_errors=True)
    return Result(request.name, state.version, repository.url, tuple(state.reports), time.monotonic() - began)


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
