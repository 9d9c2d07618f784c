"""Who waits for a slot, and for how long: a bounded line ordered by priority, then by arrival.

Priorities are Triton's: 1 is the highest, 0 stands for none and comes last. When the line is full a newcomer takes
the place of the youngest one of a lower priority, or is turned away.
"""

from bisect import insort
from typing import Generic, TypeVar

Waiter = TypeVar("Waiter")
NO_PRIORITY = 1 << 32


class Line(Generic[Waiter]):
    """Waiters of one route.

    Attributes:
        bound: how many may wait.
        full: nobody more may wait, but in the place of another.
    """

    __slots__ = ("_arrivals", "_entries", "_keys", "bound", "full")

    def __init__(self, bound: int = 0) -> None:
        self.bound = bound
        self.full = bound <= 0
        self._entries: list[tuple[int, int]] = []  # (priority, arrival), next one last
        self._keys: dict[Waiter, tuple[int, int]] = {}
        self._arrivals: dict[tuple[int, int], Waiter] = {}

    def resize(self, bound: int) -> None:
        """Changes the bound; those who wait already stay."""
        self.bound = bound
        self.full = len(self._entries) >= bound

    def __len__(self) -> int:
        """How many wait."""
        return len(self._entries)

    def takes(self, priority: int) -> bool:
        """Whether one more of that priority could wait now, if need be in the place of another."""
        if not self.full:
            return True
        return bool(self._entries) and self._entries[0][0] < -(priority or NO_PRIORITY)

    def join(self, waiter: Waiter, priority: int, arrival: int) -> tuple[bool, Waiter | None]:
        """Lets somebody wait.

        Args:
            waiter: who; not in the line yet.
            priority: 1 (first) and up; 0 for none.
            arrival: a number that grows with every arrival.

        Returns:
            Whether it waits now, and who had to leave for it.
        """
        key = (-(priority or NO_PRIORITY), -arrival)
        left: Waiter | None = None
        if not self.takes(priority):
            return False, None
        if self.full:
            left = self._arrivals[self._entries[0]]
            self.leave(left)
        insort(self._entries, key)
        self._keys[waiter] = key
        self._arrivals[key] = waiter
        self.full = len(self._entries) >= self.bound
        return True, left

    def first(self) -> Waiter:
        """Whose turn it is; the line must not be empty."""
        return self._arrivals[self._entries[-1]]

    def leave(self, waiter: Waiter) -> bool:
        """Takes somebody out; False when they did not wait."""
        key = self._keys.pop(waiter, None)
        if key is None:
            return False
        self._entries.remove(key)
        del self._arrivals[key]
        self.full = len(self._entries) >= self.bound
        return True
