"""One publisher at a time for each model of a repository."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from export.errors import LockedError

_POLL_S = 0.05


@contextlib.contextmanager
def hold(path: Path, timeout_s: float, *, remove: bool = False) -> Iterator[None]:
    """Hold the lock file; LockedError names the holder when it is not free in time. The kernel frees it at any death.

    `remove` deletes the file on leaving (for locks whose names are used once).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    while True:
        file = path.open("a+")
        try:
            _acquire(file, path, deadline, timeout_s)
            if _is_still(file, path):
                break
        except BaseException:
            file.close()
            raise
        file.close()  # its last holder removed it: lock the file that is there now
    with file:
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            if remove:
                path.unlink(missing_ok=True)


def _acquire(file: IO[str], path: Path, deadline: float, timeout_s: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise LockedError(f"{path.stem} is held by process {holder}; waited {timeout_s:g} s") from None
            time.sleep(_POLL_S)
        else:
            return


def _is_still(file: IO[str], path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
