"""Triton's statistics read again and again while a load runs, so that batch sizes are known over time."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

import msgspec

from loadtest.results import BatchSizes
from loadtest.triton_stats import Snapshot, difference, series

MAX_SAMPLES: Final = 1200
_JOIN_S: Final = 60.0


def period_s(duration_s: float) -> float:
    """Time between two readings: a second, more in runs so long that there would be too many of them."""
    return max(1.0, duration_s / MAX_SAMPLES)


class BatchWatch:
    """Takes a snapshot at entry, one each period, and one at exit; the first that fails ends it.

    Args:
        take: reads the statistics; raises ValueError where a server does not give them.
        period_s: seconds between readings.
    """

    def __init__(self, take: Callable[[], Snapshot], period_s: float) -> None:
        self._take, self._period_s = take, period_s
        self._samples: list[tuple[float, Snapshot]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.problem = ""

    def __enter__(self) -> "BatchWatch":
        """Take the first snapshot and begin."""
        if self._sample():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the last snapshot, unless the run failed."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)
        if kind is None and not self.problem:
            self._sample()

    def found(self, *, started_at: float) -> BatchSizes | None:
        """The whole and its course; None when `problem` says why there is nothing.

        Args:
            started_at: start of the run, in seconds since the epoch.
        """
        if self.problem:
            return None
        whole = difference(self._samples[0][1], self._samples[-1][1])
        return msgspec.structs.replace(whole, series=series(self._samples, started_at=started_at))

    def _watch(self) -> None:
        while not self._stop.wait(self._period_s) and self._sample():
            pass

    def _sample(self) -> bool:
        try:
            found = self._take()
        except ValueError as error:
            self.problem = f"batch sizes are unknown: {error}"
        else:
            # Only now: what an answer counts has happened by then, so no stretch ends before its last batch.
            self._samples.append((time.time(), found))
        return not self.problem
