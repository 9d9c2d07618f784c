"""The seeded faults: each is put into a repository that a real Triton serves, and what it got is recorded.

`python -m tests.export.faults docs/export-faults.md` runs them all and writes the table; test_export_faults.py runs
the same list one by one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.errors import ExportError
from export.publish import lock, upkeep
from export.publish.open import open_repository
from export.serving.client import Triton
from gateway.localtriton.server import LocalTriton
from tests.export.conftest import export

LIVE = "live"
_BROKEN = "tests.export.broken"


@dataclass
class Bench:
    """The repository, the Triton that serves it, and what the live version answers."""

    repo: Path
    triton: Triton
    inputs: dict[str, np.ndarray]
    answer: np.ndarray

    def snapshot(self) -> dict[str, str]:
        """Hash of every file of the repository."""
        files = [path for path in sorted(self.repo.rglob("*")) if path.is_file()]
        return {str(path.relative_to(self.repo)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def still_serves(self) -> bool:
        """Whether the live version answers as before, also after Triton looked at the repository again."""
        before = self.triton.infer(LIVE, 1, self.inputs)["value"]
        self.triton.load(LIVE)
        after = self.triton.infer(LIVE, 1, self.inputs)["value"]
        return bool(np.array_equal(before, self.answer) and np.array_equal(after, self.answer))

    def leftovers(self) -> list[str]:
        """What lies in the staging directory."""
        return sorted(path.name for path in (self.repo.parent / ".repo.sluice" / "staging").iterdir())


@dataclass(frozen=True)
class Fault:
    """`act` returns what the fault got: `refused at STEP (code)` or `survived: ...`."""

    name: str
    expected: str
    act: Callable[[Bench], str]


def make_bench(directory: Path, server: Callable[..., LocalTriton]) -> Bench:
    """A repository with version 1 of the live model, served."""
    repo = directory / "repo"
    export(repo, f"{_BROKEN}:healthy", LIVE)
    triton = Triton(server(repo).http_url)
    inputs = {"features": np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)}
    return Bench(repo, triton, inputs, triton.infer(LIVE, 1, inputs)["value"])


def refused(call: Callable[[], object]) -> str:
    """Run something that must raise ExportError; its step or class, and its exit code."""
    try:
        call()
    except ExportError as error:
        step = getattr(error, "step", None)
        return f"refused at {step.label} ({error.exit_code})" if step else f"refused ({error.exit_code})"
    return "PUBLISHED"


def _factory(name: str, **options: object) -> Callable[[Bench], str]:
    options.setdefault("name", LIVE)
    return lambda bench: refused(lambda: export(bench.repo, f"{_BROKEN}:{name}", promote=True, **options))


def _overlay(text: str, **options: object) -> Callable[[Bench], str]:
    def act(bench: Bench) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".pbtxt") as file:
            file.write(text)
            file.flush()
            arguments = {"promote": True, "overlay": file.name, "reconfigure": True, **options}
            return refused(lambda: export(bench.repo, f"{_BROKEN}:other", LIVE, **arguments))

    return act


def _fp16_overflow(bench: Bench) -> str:
    result = export(bench.repo, f"{_BROKEN}:huge", "huge", precision="fp16", dry_run=True)
    kept = next(report.output["fp32_nodes"] for report in result.reports if report.step == "precision")
    return f"survived: {'some' if kept else 'no'} nodes kept in float32, within tolerance"


def _collision(bench: Bench) -> str:
    result = export(bench.repo, f"{_BROKEN}:collision", "collision", dry_run=True)
    return "survived: renamed inside" if result.reports[-1].status != "failed" else "failed"


def _untrusted_pickle(bench: Bench) -> str:
    path = bench.repo.parent / "model.pt"
    path.write_bytes(b"whatever it is, it is not opened")
    return refused(lambda: export(bench.repo, str(path), LIVE))


def _own_code(bench: Bench) -> str:
    directory = bench.repo.parent / "hf"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Model"}}')
    return refused(lambda: export(bench.repo, str(directory), LIVE))


def _same_number(bench: Bench) -> str:
    return refused(lambda: export(bench.repo, f"{_BROKEN}:other", LIVE, version=1))


def _locked(bench: Bench) -> str:
    with lock.hold(bench.repo.parent / ".repo.sluice" / "locks" / f"{LIVE}.lock", 1.0):
        return refused(lambda: export(bench.repo, f"{_BROKEN}:other", LIVE, lock_timeout_s=0.2))


def _wrong_checksum(bench: Bench) -> str:
    side = bench.repo.parent / "checksum" / "repo"
    export(side, f"{_BROKEN}:healthy", LIVE)
    export(side, f"{_BROKEN}:other", LIVE)
    model = side / LIVE / "2" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.chmod(0o644)
    model.write_bytes(data)
    repository = open_repository(str(side))
    found = [finding for finding in upkeep.check(repository, None) if finding.problems]
    promoted = refused(lambda: upkeep.promote(repository, LIVE, 2))
    return f"found by check, promotion {promoted}" if [f.version for f in found] == [2] else "NOT FOUND"


def _hand_edited(bench: Bench) -> str:
    side = bench.repo.parent / "edited" / "repo"
    export(side, f"{_BROKEN}:healthy", LIVE)
    config = side / LIVE / "config.pbtxt"
    config.write_text(config.read_text().replace("specific {\n    versions: 1\n  }", "latest { num_versions: 1 }"))
    return refused(lambda: export(side, f"{_BROKEN}:other", LIVE))


def _disk_full(bench: Bench) -> str:
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from tests.export.faults import refused, export
print(refused(lambda: export({str(bench.repo)!r}, "{_BROKEN}:other", "{LIVE}", promote=True, fresh=True)))
"""
    done = _python(code)
    return done.stdout.strip() or done.stderr[-300:]


def _kill_at_rename(which: int) -> Callable[[Bench], str]:
    def act(bench: Bench) -> str:
        side = bench.repo.parent / f"killed-{which}" / "repo"
        export(side, f"{_BROKEN}:healthy", LIVE)
        code = f"""
import os, signal, sys
seen = 0
def hook(event, arguments):
    global seen
    if event == "os.rename" and "staging" in str(arguments[0]):
        seen += 1
        if seen == {which}:
            os.kill(os.getpid(), signal.SIGKILL)
from tests.export.conftest import export
sys.addaudithook(hook)
export({str(side)!r}, "{_BROKEN}:other", "{LIVE}", promote=True)
"""
        done = _python(code)
        repository = open_repository(str(side))
        whole = not any(finding.problems for finding in upkeep.check(repository, None))
        again = export(side, f"{_BROKEN}:other", LIVE, promote=True)
        served = upkeep.overview(repository)[0].served
        upkeep.collect(repository, None, keep=2, dry_run=False)
        clean = not list((side.parent / ".repo.sluice" / "staging").iterdir())
        fine = done.returncode == -9 and whole and clean and served == [1, 2] and again.version == 2
        return "survived: whole before, version 2 after a rerun" if fine else f"NOT: {done.returncode} {whole} {served}"

    return act


def _kill_at_each_step(bench: Bench) -> str:
    from export.pipeline import STEPS

    side = bench.repo.parent / "steps" / "repo"
    export(side, f"{_BROKEN}:healthy", LIVE)
    before = Bench(side, bench.triton, bench.inputs, bench.answer).snapshot()
    for definition in STEPS[:-1]:
        code = f"""
import os, signal
from export.pipeline import run
from export.request import ExportRequest
def progress(step, report):
    if report is None and step.label == {definition.step.label!r}:
        os.kill(os.getpid(), signal.SIGKILL)
run(ExportRequest(spec="{_BROKEN}:other", repo={str(side)!r}, name="{LIVE}", serve_check="off", promote=True), progress)
"""
        done = _python(code)
        if done.returncode != -9:
            return f"NOT KILLED at {definition.step.label}: {done.stderr[-300:]}"
        if Bench(side, bench.triton, bench.inputs, bench.answer).snapshot() != before:
            return f"CHANGED when killed at {definition.step.label}"
    result = export(side, f"{_BROKEN}:other", LIVE, promote=True)
    resumed = sum(report.status == "resumed" for report in result.reports)
    return (
        "survived: nothing published, the rerun resumed" if result.version == 2 and resumed >= 7 else f"NOT: {result}"
    )


def _two_at_once(bench: Bench) -> str:
    side = bench.repo.parent / "two" / "repo"
    code = """
from tests.export.conftest import export
print(export({repo!r}, "tests.export.broken:{factory}", "live", promote=True).version)
"""
    commands = [
        [sys.executable, "-c", code.format(repo=str(side), factory=factory)] for factory in ("healthy", "other")
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    versions = sorted(int(process.communicate(timeout=170)[0]) for process in running)
    findings = upkeep.check(open_repository(str(side)), None)
    fine = versions == [1, 2] and not any(finding.problems for finding in findings)
    return "survived: both published, as versions 1 and 2" if fine else f"NOT: {versions} {findings}"


def _unloadable(bench: Bench) -> str:
    text = 'parameters { key: "execution_mode" value { string_value: "sideways" } }'
    return _overlay(text, triton=bench.triton.url)(bench)


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=170, check=False)


FAULTS: tuple[Fault, ...] = (
    Fault("opset above what the target loads", "refused at preflight (10)", _factory("other", opset=99)),
    Fault("target release that nobody knows", "refused (2)", _factory("other", target_triton="19.01")),
    Fault("factory raises", "refused at load (11)", _factory("raising")),
    Fault("factory does not exist", "refused at load (11)", _factory("no_such_factory")),
    Fault("model left in training mode", "refused at load (11)", _factory("training")),
    Fault("BatchNorm on the statistics of the batch", "refused at load (11)", _factory("batch_statistics")),
    Fault("NaN in the answers", "refused at load (11)", _factory("not_a_number")),
    Fault("example batch of one", "refused at load (11)", _factory("one_row")),
    Fault("output name that does not exist", "refused at load (11)", _factory("wrong_names")),
    Fault("more output names than outputs", "refused at load (11)", _factory("too_many_names")),
    Fault("pickle without --trust", "refused at load (11)", _untrusted_pickle),
    Fault("Hugging Face directory with code of its own", "refused at load (11)", _own_code),
    Fault("batch baked in by a loop over rows", "refused at structure (14)", _factory("baked_batch")),
    Fault("declared dynamic dimension that is fixed", "refused at parity (16)", _factory("fixed_length")),
    Fault("output name that meets an internal one", "survived: renamed inside", _collision),
    Fault("batch lost in a sum", "refused at structure (14)", _factory("lost_batch")),
    Fault("dropout that ignores eval()", "refused at structure (14)", _factory("dropping")),
    Fault("float16 overflow inside", "survived: some nodes kept in float32, within tolerance", _fp16_overflow),
    Fault("Python state frozen into the graph", "refused at parity (16)", _factory("counting")),
    Fault("answers that depend on the batch's company", "refused at independence (17)", _factory("centred")),
    Fault("TensorRT plan without a GPU", "refused at tensorrt (18)", _factory("other", tensorrt="plan")),
    Fault("other outputs than the live versions", "refused at config (19)", _factory("other_contract")),
    Fault("configuration that reloads live versions", "refused at config (19)", _factory("other", max_batch=8)),
    Fault("overlay with an unknown field", "refused at config (19)", _overlay("max_batch: 4")),
    Fault("overlay that changes the contract", "refused at config (19)", _overlay('backend: "python"')),
    Fault("version policy edited by hand", "refused at config (19)", _hand_edited),
    Fault("existing version number, other bytes", "refused at publish (21)", _same_number),
    Fault("version that Triton will not load", "refused at reload (22)", _unloadable),
    Fault("another publisher holds the lock", "refused (32)", _locked),
    Fault("two publishers at once", "survived: both published, as versions 1 and 2", _two_at_once),
    Fault("disk full", "refused at load (11)", _disk_full),
    Fault("killed at the start of every step", "survived: nothing published, the rerun resumed", _kill_at_each_step),
    Fault("killed before the version's rename", "survived: whole before, version 2 after a rerun", _kill_at_rename(1)),
    Fault("killed between version and policy", "survived: whole before, version 2 after a rerun", _kill_at_rename(2)),
    Fault("a byte changed after publication", "found by check, promotion refused (30)", _wrong_checksum),
)


def judge(fault: Fault, bench: Bench) -> tuple[str, bool]:
    """What the fault got, and whether the live model was untouched and serving."""
    before = bench.snapshot()
    got = fault.act(bench)
    return got, bench.snapshot() == before and bench.still_serves() and not bench.leftovers()


_HEADER = """# Seeded faults and what each got

Written by `python -m tests.export.faults docs/export-faults.md`: every fault is put into a repository that a real
Triton serves from. The last column says whether every byte of the repository stayed as it was, no staging directory
was left, and the live version gave the same answer before and after Triton looked at the repository again. (Faults
that need a published victim use a second repository, and the column still speaks of the first.)

| fault | what it got | live version untouched and serving |
|---|---|---|
"""


def main(target: str) -> int:
    """Run all faults and write the table; 1 when one of them was not handled as expected."""
    wrong, rows = 0, []
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        servers: list[LocalTriton] = []

        def server(repo: Path) -> LocalTriton:
            servers.append(LocalTriton(repo, log_file=base / "triton.log", exit_timeout_s=1))
            servers[-1].start()
            return servers[-1]

        try:
            bench = make_bench(base, server)
            for fault in FAULTS:
                got, served = judge(fault, bench)
                wrong += got != fault.expected or not served
                rows.append(f"| {fault.name} | {got} | {'yes' if served else 'NO'} |")
                sys.stderr.write(rows[-1] + "\n")
        finally:
            for running in servers:
                running.stop()
    published = sum("PUBLISHED" in row for row in rows)
    Path(target).write_text(_HEADER + "\n".join(rows) + f"\n\n{len(rows)} faults, {published} wrong publications.\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
