"""CPU time and memory of a process and all its descendants, read from /proc."""

import os
from pathlib import Path
from typing import Final

import msgspec

from loadtest.errors import BrokenRunError

_TICK: Final = os.sysconf("SC_CLK_TCK")


class Memory(msgspec.Struct, frozen=True):
    """Resident memory of one process, in MiB: now, and the most since its start."""

    name: str
    now_mib: float
    peak_mib: float


def pids(root: int) -> list[int]:
    """The process and its descendants that live; empty when it is gone."""
    found: list[int] = []
    pending = [root]
    while pending:
        pid = pending.pop()
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            children = [child for task in tasks for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append(pid)
        pending += map(int, children)
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree since its start; includes children that ended and were waited for."""
    return sum(_times(pid, ended_children=True) for pid in pids(root))


def own_cpu_seconds(pid: int) -> float:
    """User and system time of one process since its start."""
    return _times(pid, ended_children=False)


def _times(pid: int, *, ended_children: bool) -> float:
    try:
        # The command name is in parentheses and may itself contain any of them; utime is the 14th field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11 : 15 if ended_children else 13])) / _TICK


def memory(pid: int) -> Memory:
    """Resident memory of one process.

    Raises:
        BrokenRunError: the process is gone.
    """
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        now, peak = (int(status[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    except (FileNotFoundError, ProcessLookupError, KeyError):
        raise BrokenRunError(f"process {pid} ended while it was measured") from None
    return Memory(command, now, peak)
