"""How time is cut: which slices count after the warm-up, and which arm is driven in which."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slicing:
    """A run of `duration_s` in slices of `slice_s`; with several arms a slice belongs to one of them."""

    duration_s: float
    slice_s: float
    arms: int

    def index_at(self, t: float) -> int:
        """The slice that `t` seconds falls into."""
        return int(t / self.slice_s)

    def arm_of(self, index: int) -> int:
        """The arm driven in a slice: A B, B A, A B, ... so that a steady drift of the machine favours neither."""
        if self.arms == 1:
            return 0
        pair, second = divmod(index, 2)
        return second ^ (pair & 1)

    def measured(self, arm: int, warmup_s: float) -> list[int]:
        """The slices that count for an arm: those that start after the warm-up."""
        first, end = int(-(-warmup_s // self.slice_s)), int(-(-self.duration_s // self.slice_s))
        return [i for i in range(first, end) if self.arm_of(i) == arm]

    def whole(self, arm: int, warmup_s: float) -> list[int]:
        """Those of the measured slices that are not cut short by the end of the run."""
        return [i for i in self.measured(arm, warmup_s) if (i + 1) * self.slice_s <= self.duration_s]

    def span(self, index: int) -> tuple[float, float]:
        """Start and end of a slice in seconds."""
        return index * self.slice_s, min((index + 1) * self.slice_s, self.duration_s)
