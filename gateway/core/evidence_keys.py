"""Counts each sticky key once: with sticky assignment the key, not the request, is what was drawn at random.

A key that is first bad while the candidate has share s is the candidate's with chance s, whatever its own propensity to
fail and however often it returns; counting it again would call one draw many.
"""

from collections.abc import Iterable, Mapping

MAX_KEYS = 200_000


class KeyLedger:
    """The keys already counted of one rollout, per check. Bounded: when full, no arm gains another key.

    Checks: `assigned`, `server`, `client`, `shed`, `slow`, `bin:<k>` (first sampled prediction, all bins share one
    set), `correct` and `wrong` (first ground truth, likewise).
    """

    __slots__ = ("_limit", "_seen")

    def __init__(self, limit: int = MAX_KEYS) -> None:
        self._limit = limit
        self._seen: dict[str, set[int]] = {}

    def admit(self, reported: Iterable[tuple[str, str, Iterable[int]]]) -> dict[str, tuple[float, float]]:
        """New keys of one second per check as (candidate, reference).

        Args:
            reported: (check, arm, key hashes) from any number of workers; arm is `candidate`, `reference`, or empty:
                a key of neither arm is used up all the same, so that those left for a later step are of all kinds.
        """
        counts: dict[str, list[float]] = {}
        for check, arm, hashes in reported:
            seen = self._seen.setdefault(_set_name(check), set())
            pair = counts.setdefault(check, [0.0, 0.0])
            for key in hashes:
                if key not in seen and len(seen) < self._limit:
                    seen.add(key)
                    if arm:
                        pair[arm != "candidate"] += 1.0
        return {check: (pair[0], pair[1]) for check, pair in counts.items()}

    def sizes(self) -> Mapping[str, int]:
        """Number of keys counted per set."""
        return {name: len(seen) for name, seen in self._seen.items()}


def _set_name(check: str) -> str:
    if check.startswith("bin:"):
        return "predictions"
    return "feedback" if check in {"correct", "wrong"} else check
