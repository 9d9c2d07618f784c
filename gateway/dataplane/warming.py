"""Slow start: a backend that is new or comes back gets its share by and by, so that cold caches do not cost errors."""

import asyncio
from time import perf_counter
from typing import Protocol

from gateway.core.balance import warmth

_STEPS = 50


class Warmed(Protocol):
    """A backend whose weight may be lower than its own for a while."""

    weight: float
    full_weight: float


class Warming:
    """The backends of one pool that have not reached their full weight; one timer while there are any."""

    def __init__(self) -> None:
        self._since: dict[Warmed, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, backend: Warmed, duration_s: float) -> None:
        """Starts a backend at the lowest weight."""
        if duration_s > 0:
            self._since[backend] = perf_counter()
            backend.weight = backend.full_weight * warmth(0.0, duration_s)
            if self._timer is None:
                self._arm(duration_s)

    def end(self, backend: Warmed) -> None:
        """Gives a backend its full weight at once."""
        self._since.pop(backend, None)
        backend.weight = backend.full_weight

    def _arm(self, duration_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(duration_s / _STEPS, self._step, duration_s)

    def _step(self, duration_s: float) -> None:
        self._timer = None
        now = perf_counter()
        for backend, since in list(self._since.items()):
            share = warmth(now - since, duration_s)
            backend.weight = backend.full_weight * share
            if share >= 1:
                del self._since[backend]
        if self._since:
            self._arm(duration_s)
