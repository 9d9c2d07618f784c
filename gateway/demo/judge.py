"""What the demo claims, decided from what it measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binom

# A fair split fails a check this rarely; a demo has a handful of them.
_CHANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Check:
    """One claim: what it is about, whether it holds, and the numbers behind it."""

    name: str
    ok: bool
    text: str


def bounds(trials: int, share: float) -> tuple[int, int]:
    """Counts between which a binomial count falls but for one time in ten thousand."""
    low, high = binom.interval(1 - _CHANCE, trials, share)
    return int(low), int(high)


def within(name: str, count: int, trials: int, share: float) -> Check:
    """Whether a count is what a fair split of `trials` at `share` gives."""
    low, high = bounds(trials, share)
    return Check(name, low <= count <= high, f"{count} of {trials}, expected {low} to {high}")


def equal(name: str, found: object, expected: object) -> Check:
    """Whether two values are the same."""
    same = found == expected
    return Check(name, same, f"{found}" if same else f"{found}, expected {expected}")


def at_most(name: str, found: float | None, most: float) -> Check:
    """Whether something happened, and no more of it than `most`; None when it never did."""
    if found is None:
        return Check(name, ok=False, text=f"never, expected at most {most:g}")
    return Check(name, 0 < found <= most, f"{found:.3g} (at most {most:g})")


def switch_s(decisions: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds from a rollout's failing verdict until its last worker has acknowledged the old weights.

    Args:
        decisions: as the admin API gives them, oldest first.

    Returns:
        None when there was no such verdict, or no acknowledgement after it.
    """
    failed = next((decision for decision in decisions if decision["event"] == "failed"), None)
    if failed is None:
        return None
    later = (decision for decision in decisions if decision["seq"] > failed["seq"])
    done = next((decision for decision in later if "weights weights done" in decision["reason"]), None)
    return None if done is None else float(done["at"] - failed["at"])


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; needs one value or more."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(share * 1000) // 1000))
    return ordered[rank - 1]
