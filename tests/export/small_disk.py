"""A publisher whose disk fills up: a small file system of its own where one can be mounted, with a Triton on it.

`python -m tests.export.small_disk DIRECTORY`, in a mount namespace of its own, mounts it there and judges.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gateway.localtriton.server import LocalTriton
from tests.export import crashes
from tests.export.bench import Bench, make_bench

_SIZE = "size=96m"  # preflight asks for 64 MiB
_NAMESPACES = (["unshare", "--user", "--map-root-user", "--mount"], ["unshare", "--mount"])
WENT_WELL = "refused at load (11), refused at publish (21), survived: version 2 once there was room"

_WRITING_CASES = 'event == "open" and str(args[0]).endswith("cases.npz")'
_STAGING = 'event == "open" and "staging" in str(args[0]) and str(args[0]).endswith("model.onnx")'
_HOOK = """
begun = []
def hook(event, args):
    if not begun and {condition}:
        begun.append(True)
        {fill}
sys.addaudithook(hook)
from export.errors import StepError
def told(kind, error, trace):
    print(f"refused at {{error.step.label}} ({{error.exit_code}})" if isinstance(error, StepError) else error)
sys.excepthook = told
"""
_LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))"
_FILL = """
        with open({path!r}, "wb", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, 2), size)
                except OSError:
                    size >>= 1
"""


def full_disk(bench: Bench) -> str:
    """Full while loading and while staging, then not any more; on a real small file system where one can be had."""
    namespace = _namespace()
    if namespace is None:
        return _filled(bench, _LIMIT, lambda: None)
    place = bench.repo.parent / "small"
    place.mkdir()
    command = [*namespace, sys.executable, "-m", "tests.export.small_disk", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return done.stdout.strip() or done.stderr[-400:]


def what_it_is() -> str:
    """For the table: what a full disk is on this machine."""
    if _namespace() is None:
        return (
            "A full disk is a limit on the size of files that begins there (no small file system can be mounted here)."
        )
    return (
        "A full disk is a small file system, with a repository and a Triton of its own, that fills up at that moment."
    )


def _namespace() -> list[str] | None:
    """The command under which a small file system can be mounted, if there is one."""
    for namespace in _NAMESPACES if shutil.which("unshare") else ():
        with tempfile.TemporaryDirectory() as place:
            tried = [*namespace, "mount", "-t", "tmpfs", "-o", _SIZE, "tmpfs", place]
            if subprocess.run(tried, capture_output=True, timeout=60, check=False).returncode == 0:
                return namespace
    return None


def _filled(bench: Bench, fill: str, make_room: Callable[[], None]) -> str:
    victim = bench.new_victim("full")
    before, got = bench.snapshot(), []
    for condition in (_WRITING_CASES, _STAGING):
        done = crashes.publish(bench, victim, "other", hook=_HOOK.format(condition=condition, fill=fill))
        make_room()
        got.append(done.stdout.strip() or done.stderr[-300:])
        if bench.snapshot() != before or bench.leftovers():
            return f"CHANGED after {got}"
        bench.look_again()
    return ", ".join([*got, crashes.completed(bench, victim) or "survived: version 2 once there was room"])


def main(place: str) -> int:
    """Mount, judge, print what it got; everything is gone with the namespace."""
    from tests.export.faults import Fault, judge

    subprocess.run(["mount", "-t", "tmpfs", "-o", _SIZE, "tmpfs", place], check=True)
    filler = Path(place, "filler")
    servers: list[LocalTriton] = []

    def server(repo: Path) -> LocalTriton:
        servers.append(LocalTriton(repo, log_file=Path(f"{place}.triton.log"), exit_timeout_s=1, ready_timeout_s=120))
        servers[-1].start()
        return servers[-1]

    try:
        bench = make_bench(Path(place), server)
        act = Fault("", "", lambda bench: _filled(bench, _FILL.format(path=str(filler)), filler.unlink), completes=True)
        verdict = judge(act, bench)
        print(f"WRONG: {verdict.wrong[0]}" if verdict.wrong else verdict.got)  # noqa: T201
        bench.close()
    finally:
        for running in servers:
            running.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
