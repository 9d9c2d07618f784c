"""A closed loop of requests: `concurrency` threads, each with its own connection."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from export.errors import ExportError
from export.serving.client import Triton
from export.tune.pareto import Candidate, Trial

_WARM_SHARE = 0.25


def measure(
    url: str, name: str, version: int, inputs: dict[str, Any], candidate: Candidate, *, concurrency: int, seconds: float
) -> Trial:
    """Drive one version for `seconds` after a quarter of that as warm-up; failed requests are counted, not timed."""
    start = time.monotonic() + seconds * _WARM_SHARE
    end = start + seconds
    taken: list[list[float]] = [[] for _ in range(concurrency)]
    failed = [0] * concurrency

    def loop(slot: int) -> None:
        with Triton(url, timeout_s=30) as triton:
            while (began := time.monotonic()) < end:
                try:
                    triton.infer(name, version, inputs)
                except ExportError:
                    failed[slot] += 1
                    continue
                finished = time.monotonic()
                if began >= start and finished <= end:
                    taken[slot].append(finished - began)

    threads = [threading.Thread(target=loop, args=(slot,)) for slot in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = np.array([value for slot in taken for value in slot]) * 1e3
    if times.size == 0:
        return Trial(candidate, 0.0, 0.0, 0.0, max(sum(failed), 1))
    p50, p99 = np.percentile(times, [50, 99])
    return Trial(candidate, times.size / seconds, float(p50), float(p99), sum(failed))
