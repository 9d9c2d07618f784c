"""A log line for a sample of requests: off by default, written by a thread, never waited for."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable

import msgspec

_MAX_WAITING = 1000


class AccessLog:
    """Draws requests and writes a JSON line for each that was drawn.

    Nothing in a line comes from a request's headers but its well-formed id, so no credential can get there.

    Args:
        share: of the requests that is logged, 0 to 1.
        worker: slot number, on every line.
        chance: uniform draws from [0, 1).
    """

    def __init__(self, share: float, worker: int, chance: Callable[[], float], fd: int = -1) -> None:
        self._share = share
        self._worker = worker
        self._chance = chance
        self._fd = fd if fd >= 0 else sys.stderr.fileno()
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MAX_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="access log", daemon=True)
        self._thread.start()

    def drawn(self) -> bool:
        """Whether this request gets a line."""
        return self._chance() < self._share

    def line(self, **fields: str | int | float) -> None:
        """Has a line written; drops it, and counts that, when whoever reads the log is behind."""
        entry = {"time": time.time(), "event": "request", "process": "worker", "worker": self._worker, **fields}
        if self._dropped:
            entry["dropped_before"] = self._dropped
        try:
            self._lines.put_nowait(msgspec.json.encode(entry) + b"\n")
            self._dropped = 0
        except queue.Full:
            self._dropped += 1

    def close(self, within_s: float = 1.0) -> None:
        """Writes what waits, as far as that is quick."""
        try:
            self._lines.put(None, timeout=within_s)
        except queue.Full:
            return
        self._thread.join(within_s)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                os.write(self._fd, line)
            except OSError:
                return  # nobody reads it any more; what follows is dropped and counted
