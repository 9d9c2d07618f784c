"""One composition from published models to published pieces: the steps of an export that it has, resumed like those."""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from pydantic import BaseModel, ConfigDict

from export import state as states
from export.compose import composition, sequence, text
from export.compose.composition import Composition
from export.errors import Step, StepError
from export.failures import keep
from export.publish import lock
from export.publish.manifest import tools
from export.publish.open import open_repository
from export.publish.repository import Repository
from export.request import ModelName
from export.run import Outcome
from export.serving import local
from export.state import State, StepReport
from export.stepping import Progress, StepDef, walk

ServeCheck = Literal["local", "auto", "off"]


class ComposeRequest(BaseModel):
    """`kind` text puts `tokenizer` before the published encoder `part`; sequence keeps `states` for the step `part`.

    `states` maps an input of the step to the output that is its next value. `version` None is the newest of `part`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["text", "sequence"]
    name: ModelName
    repo: str
    part: str
    version: int | None = None
    tokenizer: Path | None = None
    states: dict[str, str] = {}
    serve_check: ServeCheck = "auto"
    dry_run: bool = False
    fresh: bool = False


@dataclass(slots=True)
class Assembly:
    """What the steps share."""

    request: ComposeRequest
    repository: Repository
    made: Composition
    work: Path
    state: State
    versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Composed:
    """`versions` of the pieces by name, the front last; empty after a dry run."""

    versions: dict[str, int]
    reports: tuple[StepReport, ...]
    seconds: float


def _config(current: Assembly) -> Outcome:
    composition.agree(current.repository, current.made)
    return Outcome({"pieces": ", ".join(piece.name for piece in current.made.pieces)})


def _serve_check(current: Assembly) -> Outcome:
    how = current.request.serve_check
    if how == "off":
        return Outcome(message="turned off", skipped=True)
    try:
        current.state.observed["served"] = composition.serve(current.repository, current.made, current.work)
    except local.UnavailableError as error:
        if how == "local":
            raise StepError(Step.SERVE_CHECK, f"no Triton can be started here: {error}") from error
        return Outcome(message=f"no Triton here: {error}", skipped=True)
    return Outcome({"checks": len(current.made.checks)})


def _publish(current: Assembly) -> Outcome:
    observed = current.state.observed.get("served", {})
    current.versions = composition.publish(current.repository, current.made, observed)
    return Outcome(dict(current.versions))


STEPS: tuple[StepDef[Assembly], ...] = (
    StepDef(Step.CONFIG, _config, resumable=False),
    StepDef(Step.SERVE_CHECK, _serve_check),
    StepDef(Step.PUBLISH, _publish, resumable=False),
)


def run(request: ComposeRequest, progress: Progress = lambda _step, _report: None) -> Composed:
    """Compose, have a Triton answer, publish; `progress` as for an export.

    Raises ExportError: UsageError when the parts do not fit, StepError when a step refuses, which then has left a
    script that repeats it. A rerun of one that was ended from outside goes on after its last step.
    """
    began = time.monotonic()
    repository = open_repository(request.repo)
    made = _compose(repository, request)
    mark = states.fingerprint({"request": request.model_dump(mode="json", exclude={"dry_run", "fresh"}),
                               "made": _digest(made), "tools": tools()})  # fmt: skip
    work = repository.side / "work" / f"{request.name}-{mark}"
    with lock.hold(work.with_name(f"{work.name}.lock"), composition.LOCK_TIMEOUT_S, remove=True):
        if request.fresh:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        state = states.load(work / "state.json", mark) or State(fingerprint=mark, source="composition")
        current = Assembly(request, repository, made, work, state, {})
        steps = [row for row in STEPS if not (request.dry_run and row.step is Step.PUBLISH)]
        walk(current, steps, progress, lambda failure: _keep(current, failure))
        shutil.rmtree(work, ignore_errors=True)
    return Composed(current.versions, tuple(state.reports), time.monotonic() - began)


def _compose(repository: Repository, request: ComposeRequest) -> Composition:
    if request.kind == "sequence":
        return sequence.compose(repository, request.name, request.part, request.version, request.states)
    return text.compose(
        repository, request.name, request.part, request.version, request.tokenizer or text.minilm_tokenizer()
    )


def _digest(made: Composition) -> str:
    found = hashlib.sha256()
    for piece in made.pieces:
        found.update(msgspec.json.encode([piece.name, piece.config], order="sorted"))
        for path, data in sorted(piece.contents.items()):
            found.update(path.encode() + hashlib.sha256(data).digest())
    for check in made.checks:
        for values in check.expected.values():
            found.update(values.tobytes())
    return found.hexdigest()


def _keep(current: Assembly, failure: StepError) -> Path | None:
    request = current.request
    part = "--encoder" if request.kind == "text" else "--step"
    arguments = [request.kind, request.name, "--repo", request.repo, part, request.part, "--dry-run", "--fresh"]
    arguments += ["--serve-check", request.serve_check, "--version", str(current.made.needs[0][1])]
    if request.tokenizer:
        arguments += ["--tokenizer", str(request.tokenizer)]
    for source, target in request.states.items():
        arguments += ["--state", f"{source}={target}"]
    return keep(
        current.repository.side,
        request.name,
        failure,
        request=request.model_dump_json(indent=1),
        arguments=arguments,
        files={"triton.log": current.work / "triton.log"},
    )
