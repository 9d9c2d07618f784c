"""The seeded faults: each is put into a repository that a real Triton serves, and what it got is recorded.

`python -m tests.export.faults docs/export-faults.md` runs them all and writes the table; test_export_faults.py runs
the same list one by one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.errors import ExportError
from export.publish import lock, upkeep
from export.publish.open import open_repository
from gateway.localtriton.server import LocalTriton
from tests.export import crashes, small_disk
from tests.export.bench import BROKEN, LIVE, Bench, make_bench
from tests.export.conftest import export


@dataclass(frozen=True)
class Fault:
    """`act` returns what the fault got: `refused at STEP (code)` or `survived: ...`.

    `completes` is for faults that are followed by a rerun, which rightly adds a version of a victim of its own.
    """

    name: str
    expected: str
    act: Callable[[Bench], str]
    completes: bool = False


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
    return lambda bench: refused(lambda: export(bench.repo, f"{BROKEN}:{name}", promote=True, **options))


def _overlay(text: str, **options: object) -> Callable[[Bench], str]:
    def act(bench: Bench) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".pbtxt") as file:
            file.write(text)
            file.flush()
            arguments = {"promote": True, "overlay": file.name, "reconfigure": True, **options}
            return refused(lambda: export(bench.repo, f"{BROKEN}:other", LIVE, **arguments))

    return act


def _fp16_overflow(bench: Bench) -> str:
    result = export(bench.repo, f"{BROKEN}:huge", "huge", precision="fp16", dry_run=True)
    kept = next(report.output["fp32_nodes"] for report in result.reports if report.step == "precision")
    return f"survived: {'some' if kept else 'no'} nodes kept in float32, within tolerance"


def _collision(bench: Bench) -> str:
    result = export(bench.repo, f"{BROKEN}:collision", "collision", dry_run=True)
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
    return refused(lambda: export(bench.repo, f"{BROKEN}:other", LIVE, version=1))


def _locked(bench: Bench) -> str:
    with lock.hold(bench.repo.parent / ".repo.sluice" / "locks" / f"{LIVE}.lock", 1.0):
        return refused(lambda: export(bench.repo, f"{BROKEN}:other", LIVE, lock_timeout_s=0.2))


def _wrong_checksum(bench: Bench) -> str:
    victim = bench.new_victim("bitten")
    export(bench.repo, f"{BROKEN}:other", victim)
    model = bench.repo / victim / "2" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.chmod(0o644)
    model.write_bytes(data)
    repository = open_repository(str(bench.repo))
    found = [finding.version for finding in upkeep.check(repository, victim) if finding.problems]
    promoted = refused(lambda: upkeep.promote(repository, victim, 2))
    return f"found by check, promotion {promoted}" if found == [2] else "NOT FOUND"


def _hand_edited(bench: Bench) -> str:
    victim = bench.new_victim("edited")
    config = bench.repo / victim / "config.pbtxt"
    config.write_text(config.read_text().replace("specific {\n    versions: 1\n  }", "latest { num_versions: 1 }"))
    return refused(lambda: export(bench.repo, f"{BROKEN}:other", victim))


def _unloadable(bench: Bench) -> str:
    text = 'parameters { key: "execution_mode" value { string_value: "sideways" } }'
    return _overlay(text, triton=bench.triton.url)(bench)


KILLS, MORE_KILLS = 14, 40
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
    Fault("declared dynamic dimension that is fixed", "refused at structure (14)", _factory("fixed_length")),
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
    Fault("version policy edited by hand", "refused at config (19)", _hand_edited, True),
    Fault("existing version number, other bytes", "refused at publish (21)", _same_number),
    Fault("version that Triton will not load", "refused at reload (22)", _unloadable),
    Fault("another publisher holds the lock", "refused (32)", _locked),
    Fault("two publishers at once", "survived: both published, as versions 2 and 3", crashes.two_at_once, True),
    Fault("disk full while loading, and while staging", small_disk.WENT_WELL, small_disk.full_disk, True),
    Fault(
        "killed at the start of every step",
        "survived: unchanged up to publish, the rerun completed it",
        crashes.killed_at_each_step,
        True,
    ),
    Fault(
        f"killed inside every step, at {KILLS} random moments",
        f"survived: whole after each of {KILLS} kills, then version 2",
        crashes.killed_inside_steps(seed=1, kills=KILLS),
        True,
    ),
    Fault(
        "killed before publishing, then run again",
        "survived: the rerun resumed 8 steps",
        crashes.resumed_after_kill,
        True,
    ),
    Fault(
        "killed with half a version staged",
        "survived: whole before, version 2 after a rerun",
        crashes.killed_when(crashes.BEFORE_MANIFEST, "half_staged"),
        True,
    ),
    Fault(
        "killed before the version's rename",
        "survived: whole before, version 2 after a rerun",
        crashes.killed_when(crashes.BEFORE_VERSION, "unrenamed"),
        True,
    ),
    Fault(
        "killed between version and policy",
        "survived: whole before, version 2 after a rerun",
        crashes.killed_when(crashes.BEFORE_POLICY, "unpromoted"),
        True,
    ),
    Fault(
        "killed at every write to object storage",
        "survived: whole before, version 2 after a rerun",
        crashes.killed_on_object_storage,
        True,
    ),
    Fault("a byte changed after publication", "found by check, promotion refused (30)", _wrong_checksum, True),
)


# What takes too long for the tests.
MORE: tuple[Fault, ...] = (
    Fault(
        f"killed inside every step, at {MORE_KILLS} other random moments",
        f"survived: whole after each of {MORE_KILLS} kills, then version 2",
        crashes.killed_inside_steps(seed=2, kills=MORE_KILLS),
        True,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What a fault got; how often the live versions were asked meanwhile, and what was wrong (nothing, it is hoped)."""

    got: str
    asked: int
    wrong: tuple[str, ...]


def judge(fault: Fault, bench: Bench) -> Verdict:
    """Seed one fault, let Triton look at the repository again, and say what became of both."""
    bench.watch.taken()
    before = bench.snapshot()
    got = fault.act(bench)
    bench.look_again()
    bench.watch.await_round()
    after = bench.snapshot()
    changed = [path for path, digest in before.items() if after.get(path) != digest]
    added = [] if fault.completes else sorted(set(after) - set(before))
    asked, wrong = bench.watch.taken()
    problems = [*(f"{path} changed" for path in changed), *(f"{path} appeared" for path in added), *wrong]
    problems += [f"{name} was left in staging" for name in bench.leftovers()]
    return Verdict(got, asked, tuple(problems))


_HEADER = """# Seeded faults and what each got

Written by `make faults`: every fault is put into the one repository that a real Triton serves from. Meanwhile version 1
of every model in it is asked without pause; the last column counts those answers, all of them equal to the first one.
In each row, after Triton had looked at the repository again, every file that had been there had its bytes, and no
staging directory was left. Faults that need a published victim (crashes, full disks, damage) get a model of their own
in that repository, served and asked like the others.
{disk}

| fault | what it got | answers of live versions meanwhile |
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
            for fault in (*FAULTS, *MORE):
                verdict = judge(fault, bench)
                wrong += verdict.got != fault.expected or bool(verdict.wrong)
                told = f"{verdict.asked}, all right" if not verdict.wrong else f"WRONG: {verdict.wrong[0]}"
                rows.append(f"| {fault.name} | {verdict.got} | {told} |")
                sys.stderr.write(rows[-1] + "\n")
            bench.close()
        finally:
            for running in servers:
                running.stop()
    published = sum("PUBLISHED" in row for row in rows)
    Path(target).write_text(
        _HEADER.format(disk=small_disk.what_it_is())
        + "\n".join(rows)
        + f"\n\n{len(rows)} faults, {published} wrong publications.\n"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
