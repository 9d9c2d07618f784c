"""Who holds a lease, told so that other processes of the same machine can see that the holder is gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_ENDED = ("Z", "X")


def myself() -> dict[str, Any]:
    """This process: `machine` is empty where the kernel does not say enough, and then nobody can tell."""
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether `owner`, what `myself` gave, was a process of this machine and is none any more."""
    here = _machine()
    return bool(here) and owner.get("machine") == here and _started(int(owner["pid"])) != owner["started"]


def _machine() -> str:
    """This boot of this kernel, and the namespace in which process numbers mean what they mean here."""
    try:
        return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When the process started, in ticks since the boot; None once it has ended, a zombie too."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in _ENDED else fields[19]
