"""Where a request's CPU goes: reads a py-spy profile of a worker and adds its samples up by stage.

Usage, while a load runs against a gateway with one worker:
    py-spy record --native --rate 200 --duration 10 --format raw --output profile.raw --pid WORKER
    python -m loadtest.overhead.stages profile.raw
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_KERNEL = {"write": "kernel: write", "writev": "kernel: write", "read": "kernel: read", "epoll_pwait": "kernel: wait"}
_SOURCE = "gateway/"
_LOOP = "event loop (uvloop, libuv)"
# Frames of the process's start are on every stack and belong to no stage.
_OUTER = ("gateway/app.py", "gateway/dataplane/worker.py")


def stage(stack: list[str]) -> str:
    """The stage of one sample, given its frames from the outermost to the innermost."""
    own = [frame for frame in stack if _SOURCE in frame and not any(outer in frame for outer in _OUTER)]
    kernel = _KERNEL.get(stack[-1].split(" ")[0])
    if kernel == "kernel: write":
        return f"{kernel} to the {'backend' if any('http/client.py' in frame for frame in own[-2:]) else 'client'}"
    if kernel is not None:
        return kernel
    return f"Python: {own[-1].partition(_SOURCE)[2].partition(':')[0]}" if own else _LOOP


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
