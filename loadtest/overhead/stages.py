"""Where a request's CPU goes: reads a py-spy profile of a worker and adds its samples up by stage.

Usage, while a load runs against a gateway with one worker:
    py-spy record --nonblocking --rate 200 --duration 10 --format raw --output profile.raw --pid WORKER
    python -m loadtest.overhead.stages profile.raw

Samples see Python's frames only, and the worker is not stopped for them: a profiler that stops it for every sample
finds it in system calls more often than it is there. What a call into the loop costs counts for the line that makes it.
"""

import linecache
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_FRAME = re.compile(r".*\((?:.*/)?gateway/(?P<path>[\w/]+\.py):(?P<line>\d+)\)")
_LOOP = "event loop and kernel: wait, read"
# Frames of the process's start are on every stack and belong to no stage.
_OUTER = ("app.py", "dataplane/worker.py")


def stage(stack: list[str]) -> str:
    """The stage of one sample, given its frames from the outermost to the innermost."""
    frame = _FRAME.fullmatch(stack[-1])
    if frame is None or frame["path"] in _OUTER:
        return _LOOP
    path = frame["path"]
    if "transport.write(" in linecache.getline(str(_ROOT / "gateway" / path), int(frame["line"])):
        return f"event loop and kernel: write to the {'backend' if path == 'http/client.py' else 'client'}"
    return f"Python: {path}"


def shares(lines: Iterable[str]) -> list[tuple[str, float]]:
    """Stages with their share of all samples, largest first; raises ValueError for a line that is no sample."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if not stack or not count.strip().isdigit():
            raise ValueError(f"not a line of a raw py-spy profile: {line[:80]!r}")
        counts[stage(stack.split(";"))] += int(count)
    total = sum(counts.values())
    return [(name, count / total) for name, count in counts.most_common()]


if __name__ == "__main__":
    for found, share in shares(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()):
        sys.stdout.write(f"| {found} | {share * 100:.1f} % |\n")
