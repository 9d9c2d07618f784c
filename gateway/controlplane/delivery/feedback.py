"""Ground truth joined to predictions by request id, within a bounded window, whichever of the two comes first."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

_EARLY_S = 30.0  # samples reach the controller a report later than the client has its answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a variant answered to one request; `key` is 0 unless the route is sticky."""

    route: str
    variant: str
    epoch: int
    pinned: bool
    key: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A prediction with its ground truth; `correct` and `wrong` are shares of its rows and sum to 1."""

    prediction: Prediction
    correct: float
    wrong: float


class JoinWindow:
    """Remembers what has not met its other half.

    Args:
        window_s: how long a prediction waits.
        limit: predictions remembered at most, and as many truths that came early.
    """

    def __init__(self, window_s: float, limit: int) -> None:
        self._window_s = window_s
        self._limit = limit
        self._predictions: OrderedDict[tuple[str, str], tuple[float, Prediction]] = OrderedDict()
        self._truths: OrderedDict[tuple[str, str], tuple[float, tuple[str, ...]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._predictions)

    def predicted(self, request_id: str, prediction: Prediction, now: float) -> Joined | None:
        """Remembers a prediction, or joins it to a truth that is there already."""
        key = prediction.route, request_id
        truth = self._truths.pop(key, None)
        if truth is not None and now - truth[0] <= _EARLY_S:
            return _join(prediction, truth[1])
        self._predictions[key] = now, prediction
        self._predictions.move_to_end(key)
        _trim(self._predictions, self._limit, now - self._window_s)
        return None

    def observed(self, route: str, request_id: str, labels: tuple[str, ...], now: float) -> Joined | str:
        """Joins a truth to its prediction.

        Returns:
            The pair; or `early` when the prediction is not there (yet), or `mismatch` when it has another number of
            rows. A prediction is joined once: a second truth finds nothing.
        """
        key = route, request_id
        found = self._predictions.get(key)
        if found is None or now - found[0] > self._window_s:
            self._truths[key] = now, labels
            _trim(self._truths, self._limit, now - _EARLY_S)
            return "early"
        if len(found[1].labels) != len(labels):
            return "mismatch"
        del self._predictions[key]
        joined = _join(found[1], labels)
        assert joined is not None
        return joined


def _join(prediction: Prediction, labels: tuple[str, ...]) -> Joined | None:
    if not labels or len(labels) != len(prediction.labels):
        return None
    right = sum(a == b for a, b in zip(prediction.labels, labels, strict=True)) / len(labels)
    return Joined(prediction=prediction, correct=right, wrong=1.0 - right)


def _trim(entries: OrderedDict[K, tuple[float, V]], limit: int, oldest: float) -> None:
    while entries and (len(entries) > limit or next(iter(entries.values()))[0] < oldest):
        entries.popitem(last=False)
