"""Figures of resilience as stored: a table, targets with verdicts, and what a reader must know beside them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from loadtest.objectives import Judgement, Verdict, worst

FORMAT: Final = "sluice.resilience/1"
_RESAMPLES: Final = 2000
_TRIM: Final = 0.2
Cell = str | float | int | None


class Settings(msgspec.Struct, frozen=True):
    """How long and how much.

    Attributes:
        seconds: length of one visit of a load.
        rounds: visits of each arm where arms are compared.
        slow_clients, idle_clients: sizes of the crowds.
        restarts: how often the workers are replaced, how often settings are taken in, how often all is replaced.
        kills: how often a Triton is killed.
    """

    seconds: float = 2.0
    rounds: int = 8
    slow_clients: int = 5000
    idle_clients: int = 20_000
    restarts: int = 20
    kills: int = 3


class Figure(msgspec.Struct, frozen=True):
    """One figure: what was done, a table of what was seen, and the targets."""

    name: str
    title: str
    method: str
    columns: list[str]
    rows: list[list[Cell]]
    targets: list[Judgement]
    notes: list[str] = []
    took_s: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """The worst of its targets; a figure without any only shows."""
        return worst(t.verdict for t in self.targets) if self.targets else "pass"


class Resilience(msgspec.Struct, frozen=True):
    """A run as stored."""

    format: str
    taken_at: str
    settings: Settings
    machine: dict[str, Any]
    figures: list[Figure]
    verdict: Verdict


class Place(msgspec.Struct, frozen=True):
    """What a figure needs to be taken: a folder of its own, a stack that ends what it starts, a way to say a word."""

    folder: Path
    stack: ExitStack
    say: Callable[[str], None]


class Paired(msgspec.Struct, frozen=True):
    """A ratio of two arms, one value a round: their middle, and where it lies with 90 % confidence."""

    ratio: float
    low: float
    high: float
    rounds: int


def paired(mine: Sequence[float | None], reference: Sequence[float | None]) -> Paired | None:
    """The ratio round by round; None where no round has both.

    Its middle is the geometric mean without the highest and the lowest fifth: one round in which the machine did
    something else moves it little, and it uses more of the others than their median would. The interval is a bootstrap
    over rounds.
    """
    logs = np.log([a / b for a, b in zip(mine, reference, strict=True) if a and b])
    if not len(logs):
        return None
    drawn = np.random.default_rng(0).choice(logs, (_RESAMPLES, len(logs)))
    low, high = np.quantile(_middle(drawn), [0.05, 0.95])
    return Paired(float(_middle(logs)), float(low), float(high), len(logs))


def _middle(logs: np.ndarray) -> np.ndarray:
    cut = int(logs.shape[-1] * _TRIM)
    middle: np.ndarray = np.exp(np.sort(logs, axis=-1)[..., cut : logs.shape[-1] - cut].mean(axis=-1))
    return middle


def between(found: Paired | None) -> str | None:
    """A ratio and its interval as a cell."""
    return f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})" if found else None


def ratio_at_most(name: str, found: Paired | None, limit: float) -> Judgement:
    """Judges a ratio by its interval: all of it has to lie on one side of the limit."""
    objective = f"{name} <= {limit:g}"
    if found is None:
        return Judgement(objective, None, "no_data", "not measured")
    where = f"between {found.low:.3f} and {found.high:.3f} over {found.rounds} rounds"
    verdict: Verdict = "pass" if found.high <= limit else "fail" if found.low > limit else "inconclusive"
    return Judgement(objective, found.ratio, verdict, where)


def at_most(name: str, value: float | None, limit: float) -> Judgement:
    """Judges a figure against its upper bound."""
    objective = f"{name} <= {limit:g}"
    if value is None:
        return Judgement(objective, None, "no_data", "not measured")
    return Judgement(objective, value, "pass" if value <= limit else "fail", "")


def at_least(name: str, value: float | None, limit: float) -> Judgement:
    """Judges a figure against its lower bound."""
    objective = f"{name} >= {limit:g}"
    if value is None:
        return Judgement(objective, None, "no_data", "not measured")
    return Judgement(objective, value, "pass" if value >= limit else "fail", "")


def none_of(name: str, count: int, among: int, kinds: str = "") -> Judgement:
    """Judges a count that must be zero; of nothing at all it says nothing."""
    if not among:
        return Judgement(f"{name}: 0", None, "no_data", "nothing was sent")
    return Judgement(f"{name}: 0", float(count), "fail" if count else "pass", kinds)
