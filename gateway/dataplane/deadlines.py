"""Deadlines of many requests on one timer.

Almost every request ends long before its deadline, so keeping a timer each would cost more than the rest of its
bookkeeping. Members stand in a dict; the only timer fires at the earliest deadline seen, looks through all, and
learns the next one. A look through is rare: about one per timeout, whatever the rate of requests.
"""

import asyncio
from time import perf_counter
from typing import Protocol

_MIN_GAP_S = 0.005


class Bounded(Protocol):
    """Something with an end."""

    deadline: float

    def on_deadline(self) -> None:
        """Called once the deadline (perf_counter seconds) has passed, unless discarded before."""


class Deadlines:
    """A set of members with deadlines; `add` and `discard` are one dict operation each."""

    __slots__ = ("_loop", "_next", "_timer", "members")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.members: dict[Bounded, None] = {}
        self._loop = loop
        self._next = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: Bounded) -> None:
        """Watches a member until it is discarded or its deadline passes."""
        self.members[member] = None
        if member.deadline < self._next:
            self._arm(member.deadline)

    def discard(self, member: Bounded) -> None:
        """Stops watching; unknown members are fine."""
        self.members.pop(member, None)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = deadline
        self._timer = self._loop.call_later(max(deadline - perf_counter(), _MIN_GAP_S), self._fire)

    def _fire(self) -> None:
        self._timer, self._next = None, float("inf")
        now = perf_counter()
        try:
            for member in [member for member in self.members if member.deadline <= now]:
                if member in self.members:  # the end of one may have discarded another
                    del self.members[member]
                    member.on_deadline()
        finally:  # whatever goes wrong at the end of one, the others have theirs
            if self.members:
                earliest = min(member.deadline for member in self.members)
                if earliest < self._next:
                    self._arm(earliest)
