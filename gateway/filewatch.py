"""Notices that files were replaced, by looking: works for editors, renames and mounted secrets alike."""

from collections.abc import Iterable
from pathlib import Path

Signature = tuple[tuple[int, int, int], ...]


def signature(paths: Iterable[str]) -> Signature:
    """What changes when any of the files does; a missing file counts as one state, an empty name as none."""
    found = []
    for path in paths:
        if path:
            try:
                stat = Path(path).stat()
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
            except OSError:
                found.append((0, 0, -1))
    return tuple(found)


class FileWatch:
    """Remembers a set of files as they were when they were last taken in."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = [path for path in paths if path]
        self._seen = signature(self._paths)

    def changed(self) -> bool:
        """Whether a file is not what it was at the last call; True once per change."""
        now = signature(self._paths)
        if now == self._seen:
            return False
        self._seen = now
        return True
