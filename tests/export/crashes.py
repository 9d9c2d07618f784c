"""Faults that end, starve or meet the publisher while it publishes into the served repository."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from export.pipeline import STEPS
from export.publish import upkeep
from export.publish.open import open_repository
from tests.export import object_storage
from tests.export.bench import BROKEN, Bench
from tests.export.conftest import export

_DEADLINE_S = 170

# Where the process is killed: an expression over an audit event (PEP 578) of the publishing process.
BEFORE_MANIFEST = 'event == "open" and str(args[0]).endswith("manifest.json") and "staging" in str(args[0])'
BEFORE_VERSION = 'event == "os.rename" and "staging" in str(args[0]) and str(args[1]).endswith("/2")'
BEFORE_POLICY = 'event == "os.rename" and "staging" in str(args[0]) and str(args[1]).endswith("config.pbtxt")'

_PUBLISH = """
from export.pipeline import run
from export.request import ExportRequest
def progress(step, report):
    if report is None and step.label == {step!r}:
        os.kill(os.getpid(), signal.SIGKILL)
request = ExportRequest(spec={spec!r}, repo={repo!r}, name={name!r}, serve_check="off", promote=True, triton={triton!r})
print(run(request, progress).version)
"""


def _command(
    bench: Bench, name: str, factory: str, *, hook: str = "", step: str = "", triton: bool = False, repo: str = ""
) -> list[str]:
    publish = _PUBLISH.format(
        spec=f"{BROKEN}:{factory}",
        repo=repo or str(bench.repo),
        name=name,
        step=step,
        triton=bench.triton.url if triton else None,
    )
    return [sys.executable, "-c", "import os, resource, signal, sys\n" + hook + publish]


def publish(bench: Bench, name: str, factory: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Publish in a process of its own; `hook` is code that runs there first, `step` one at whose start it is killed."""
    command = _command(bench, name, factory, **options)
    return subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)


def _whole(bench: Bench, name: str) -> bool:
    return not any(finding.problems for finding in upkeep.check(open_repository(str(bench.repo)), name))


def completed(bench: Bench, name: str, factory: str = "other") -> str:
    """A rerun must end in version 2, served beside version 1, and answering as it should; empty when it does."""
    again = export(bench.repo, f"{BROKEN}:{factory}", name, promote=True, triton=bench.triton.url)
    repository = open_repository(str(bench.repo))
    row = next(row for row in upkeep.overview(repository) if row.name == name)
    upkeep.collect(repository, name, keep=2, dry_run=False)
    right = np.allclose(bench.answers(name, 2) - bench.answers(name, 1), 1.0, atol=1e-5)
    fine = again.version == 2 and row.served == [1, 2] and right and _whole(bench, name)
    return "" if fine else f"NOT: version {again.version}, served {row.served}, answers right {right}"


def killed_when(condition: str, name: str) -> Callable[[Bench], str]:
    """Killed where `condition` first holds; Triton looks at what lies there then, and a rerun completes it."""
    hook = f"""
def hook(event, args):
    if {condition}:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""

    def act(bench: Bench) -> str:
        victim = bench.new_victim(name)
        done = publish(bench, victim, "other", hook=hook)
        if done.returncode != -9:
            return f"NOT KILLED: {done.returncode} {done.stderr[-300:]}"
        if not _whole(bench, victim):
            return "HALF PUBLISHED"
        bench.look_again()
        return completed(bench, victim) or "survived: whole before, version 2 after a rerun"

    return act


def killed_at_each_step(bench: Bench) -> str:
    """Up to the publication nothing changes; after it the rerun tells Triton."""
    victim = bench.new_victim("stepwise")
    before = bench.snapshot()
    for definition in STEPS:
        label = definition.step.label
        done = publish(bench, victim, "other", step=label, triton=True)
        if done.returncode != -9:
            return f"NOT KILLED at {label}: {done.stderr[-300:]}"
        if definition is not STEPS[-1] and bench.snapshot() != before:
            return f"CHANGED when killed at {label}"
        bench.look_again()
    if not _whole(bench, victim):
        return "HALF PUBLISHED"
    return completed(bench, victim) or "survived: unchanged up to publish, the rerun completed it"


def resumed_after_kill(bench: Bench) -> str:
    """What was finished before the kill is not done again."""
    victim = bench.new_victim("resumed")
    done = publish(bench, victim, "other", step="publish")
    result = export(bench.repo, f"{BROKEN}:other", victim, promote=True, triton=bench.triton.url)
    resumed = [report.step for report in result.reports if report.status == "resumed"]
    fine = done.returncode == -9 and resumed == [d.step.label for d in STEPS if d.resumable]
    return f"survived: the rerun resumed {len(resumed)} steps" if fine else f"NOT: {done.returncode} {resumed}"


def two_at_once(bench: Bench) -> str:
    """Both wait for the lock, one after the other publishes, and all three versions answer with their own weights."""
    victim = bench.new_victim("contended")
    commands = [_command(bench, victim, factory, triton=True) for factory in ("other", "third")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    published = [int(process.communicate(timeout=_DEADLINE_S)[0]) for process in running]
    base = bench.answers(victim, 1)
    shifts = [round(float((bench.answers(victim, version) - base).mean()), 3) for version in published]
    fine = sorted(published) == [2, 3] and shifts == [1.0, 2.0] and _whole(bench, victim)
    return "survived: both published, as versions 2 and 3" if fine else f"NOT: {published} {shifts}"


def killed_inside_steps(seed: int, kills: int) -> Callable[[Bench], str]:
    """Killed at random moments inside every step, one after the other; after each kill the repository is whole."""

    def act(bench: Bench) -> str:
        victim = bench.new_victim(f"inside{seed}")
        arguments = [str(bench.repo), victim, bench.triton.url, str(seed), str(kills)]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.export.inside_steps", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # it forks, so it must have no other threads
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            told = 0
            for line in process.stdout:
                told += 1
                if not _whole(bench, victim):
                    return f"HALF PUBLISHED when {line}"
                bench.look_again()
                process.stdin.write("on\n")
                process.stdin.flush()
        if (process.returncode, told) != (0, kills):
            return f"NOT KILLED: {process.returncode} after {told} kills"
        return completed(bench, victim) or f"survived: whole after each of {kills} kills, then version 2"

    return act


def killed_on_object_storage(bench: Bench) -> str:
    """Killed before each of a publication's writes to S3, and after the last one; readers copy what lies there then.

    The live versions are served from such copies, which is what Triton itself does with a repository on S3.
    """
    victim, place = "remote", bench.repo / "remote"
    with object_storage.storage(bench.repo.parent / "object-cache") as gate:
        export(object_storage.URL, f"{BROKEN}:healthy", victim)
        object_storage.mirror(victim, place)
        bench.adopt(victim)
        repository = open_repository(object_storage.URL)
        command = _command(bench, victim, "other", repo=object_storage.URL)
        for last in ("PUT 2/model.onnx", "PUT 2/manifest.json", "PUT config.pbtxt", f"DELETE locks/{victim}"):
            gate.writes.clear()
            started: Future[subprocess.Popen[bytes]] = Future()
            gate.on_write = _killing(gate, started, last)
            publisher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            started.set_result(publisher)
            if publisher.wait(_DEADLINE_S) != -9:
                return f"NOT KILLED at {last}"
            gate.on_write = lambda _write: False
            if any(finding.problems for finding in upkeep.check(repository, None)):
                return f"HALF PUBLISHED when killed at {last}"
            (row,) = upkeep.overview(repository)
            if row.served != ([1, 2] if last.startswith("DELETE") else [1]):
                return f"SERVED {row.served} when killed at {last}"
            object_storage.mirror(victim, place)
            bench.look_again()
        again = export(object_storage.URL, f"{BROKEN}:other", victim, promote=True)
        whole = not any(finding.problems for finding in upkeep.check(repository, None))
        upkeep.collect(repository, victim, keep=2, dry_run=False)
        left = [key for key in object_storage.listing() if not key.startswith(f"repository/{victim}/")]
        right = np.allclose(bench.answers(victim, 2) - bench.answers(victim, 1), 1.0, atol=1e-5)
    if again.version == 2 and whole and right and not left:
        return "survived: whole before, version 2 after a rerun"
    return f"NOT: version {again.version}, whole {whole}, answers right {right}, left {left}"


def _killing(gate: object_storage.Gate, started: Future[subprocess.Popen[bytes]], last: str) -> Callable[[str], bool]:
    """Kill it before it writes what ends in `last`, or removes it after all that it has to write.

    (Earlier it removes the lock of the publisher that was killed before it.)
    """
    kind, _, path = last.partition(" ")

    def kill(write: str) -> bool:
        if not (write.startswith(kind) and write.endswith(f"/{path}")):
            return False
        if kind == "DELETE" and not gate.writes[-1].endswith("/config.pbtxt"):
            return False
        publisher = started.result(_DEADLINE_S)
        publisher.kill()
        publisher.wait()
        return True

    return kill
