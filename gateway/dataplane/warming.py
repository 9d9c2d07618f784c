"""Slow start: a backend that is new or comes back gets its share by and by, so that cold caches do not cost errors.

While it warms up it is left out of most choices, by chance and ever more rarely. Lowering its weight instead would
keep every request from it as long as the others are idle, and it would meet its full share cold.
"""

import asyncio
from collections.abc import Sequence
from random import random
from time import perf_counter
from typing import TypeVar

from gateway.core.balance import warmth

B = TypeVar("B")
_STEPS = 50


class Warming:
    """The backends of one pool that have not reached their full share; one timer while there are any.

    Attributes:
        shares: how often each may be chosen, 0 to 1; empty most of the time.
    """

    def __init__(self) -> None:
        self.shares: dict[object, float] = {}
        self._since: dict[object, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, backend: object, duration_s: float) -> None:
        """A backend starts with the lowest share."""
        if duration_s > 0:
            self._since[backend] = perf_counter()
            self.shares[backend] = warmth(0.0, duration_s)
            if self._timer is None:
                self._arm(duration_s)

    def end(self, backend: object) -> None:
        """A backend gets its full share at once."""
        self._since.pop(backend, None)
        self.shares.pop(backend, None)

    def chosen(self, candidates: Sequence[B]) -> Sequence[B]:
        """Those that may be chosen this time; all of them if chance would leave none."""
        shares = self.shares
        kept = [backend for backend in candidates if backend not in shares or random() < shares[backend]]
        return kept or candidates

    def _arm(self, duration_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(duration_s / _STEPS, self._step, duration_s)

    def _step(self, duration_s: float) -> None:
        self._timer = None
        now = perf_counter()
        for backend, since in list(self._since.items()):
            share = warmth(now - since, duration_s)
            if share >= 1:
                self.end(backend)
            else:
                self.shares[backend] = share
        if self._since:
            self._arm(duration_s)
