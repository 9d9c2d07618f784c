"""The steps in which a real Triton has the last word."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from export.errors import ExportError, Step, StepError
from export.graph import files
from export.graph.tensorrt import gpu
from export.numeric.tolerance import tolerances
from export.publish import policy as policies
from export.run import Outcome, Run
from export.serving import confirm, local, proto
from export.serving.client import Triton, TritonError

_ALL_CASES = 1000


def serve_check(run: Run) -> Outcome:
    """The final bytes and configuration on a Triton, before anything is published."""
    how = run.request.serve_check
    if how == "off":
        return Outcome(message="turned off", skipped=True)
    run.refuse_missing(Step.SERVE_CHECK, run.final)
    if how == "auto" and _needs_gpu(run) and gpu() is None:
        return Outcome(message="its instances need a GPU, and there is none here", skipped=True)
    if how not in ("auto", "local"):
        return _on_running(run, how)
    stage = run.work / "serve-check"
    shutil.rmtree(stage, ignore_errors=True)
    try:
        _stage(run, stage)
        with local.serve(stage, run.work / "triton.log") as url, Triton(url) as triton:
            return _judge(run, triton, run.request.name)
    except local.UnavailableError as error:
        if how == "local":
            raise StepError(Step.SERVE_CHECK, f"no Triton can be started here: {error}") from error
        return Outcome(message=f"no Triton here: {error}", skipped=True)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def reload(run: Run) -> Outcome:
    """Load on the Triton that serves this repository, and have it answer; take the publication back when it cannot."""
    request, version = run.request, run.state.version
    if request.triton is None:
        return Outcome(message="no --triton given", skipped=True)
    text = run.repository.config(request.name)
    if version is None or text is None or version not in policies.read(text, request.name)[1].served:
        return Outcome(message=f"version {version} is not served; promote it", skipped=True)
    with Triton(request.triton) as triton:
        try:
            triton.load(request.name)
            triton.await_state(request.name, version, confirm.READY_S)
            outcome = _judge(run, triton, request.name, version, most=3)
        except ExportError as error:
            raise StepError(Step.RELOAD, f"{error}; {_take_back(run, triton)}") from error
    return outcome


def _take_back(run: Run, triton: Triton) -> str:
    name, version, repository = run.request.name, run.state.version, run.repository
    assert version is not None
    with repository.lock(name, run.request.lock_timeout_s):
        now = repository.config(name)
        alone = run.config_before is None and repository.versions(name) == [version]
        what = f"version {version} was taken back and the earlier policy restored"
        if alone or now is None:
            repository.remove_model(name)
            what = f"{name} was taken out of the repository again"
        elif run.config_before is not None and now == run.config_after:
            repository.write_config(name, run.config_before)
        else:  # others have published since: what they did stays
            message, policy = policies.read(now, f"{name}/config.pbtxt")
            repository.write_config(name, policies.write(message, policy.without(version)))
            what = f"version {version} was taken back; what others published meanwhile stays"
        if run.added and not alone:
            repository.remove_version(name, version)
    try:
        if alone:
            triton.unload(name)
        else:
            triton.load(name)
    except TritonError as error:
        return f"{what}, but {error}"
    return what


def _needs_gpu(run: Run) -> bool:
    return run.request.tensorrt != "off" or run.request.instances == "gpu"


def _on_running(run: Run, url: str) -> Outcome:
    name = f"{run.request.name}-check-{os.getpid()}"
    with Triton(url) as triton:
        try:
            confirm.lend(triton, name, run.state.config, run.plan or files.graph_file(run.final))
            return _judge(run, triton, name)
        finally:
            _unload(triton, name)


def _unload(triton: Triton, name: str) -> None:
    try:
        triton.unload(name)
    except TritonError:
        return  # it never loaded, or the server is gone: there is nothing left to take away


def _judge(run: Run, triton: Triton, name: str, version: int = 1, most: int = _ALL_CASES) -> Outcome:
    limits = tolerances(run.request.precision, run.names()[1], run.request.tolerances)
    served = confirm.answers(triton, name, version, run.cases, limits, most)
    if served.reason:
        raise ExportError(served.reason)
    run.state.observed["served"] = served.observed
    if run.state.tensorrt and "KIND_GPU" in served.devices:
        run.state.tensorrt["verified"] = True
    return Outcome({"cases": served.cases, "devices": ", ".join(served.devices), "triton": triton.url})


def _stage(run: Run, stage: Path) -> None:
    version = stage / run.request.name / "1"
    version.mkdir(parents=True)
    for part in (part for path in run.published for part in files.parts(path)):
        place = version / part.relative_to(run.work)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(part, place)
    message = proto.from_text(run.state.config, "config.pbtxt")
    (stage / run.request.name / "config.pbtxt").write_text(policies.write(message, policies.Policy((1,))))
