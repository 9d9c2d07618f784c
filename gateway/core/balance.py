"""Power of two choices: of two backends drawn at random, the one with fewer leases for its weight.

Source: Mitzenmacher 2001; Envoy's least-request and Linkerd's P2C use the same rule.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """What balancing needs to know of a backend: leases, requests in its own queue, relative capacity."""

    in_flight: int
    waiting: int
    weight: float


T = TypeVar("T", bound=Loaded)
_COLDEST = 0.1


def choose(backends: Sequence[T], random01: float) -> T | None:
    """Picks one of the available backends; None when there is none.

    Args:
        backends: those that may take a request now.
        random01: one uniform draw from [0, 1); both choices are made from it.
    """
    n = len(backends)
    if n <= 1:
        return backends[0] if n else None
    spot = random01 * n
    i = int(spot)
    j = int((spot - i) * (n - 1))
    a, b = backends[i], backends[j if j < i else j + 1]
    load_a = a.in_flight + a.waiting + 1
    load_b = b.in_flight + b.waiting + 1
    return a if load_a / a.weight <= load_b / b.weight else b


def warmth(age_s: float, slow_start_s: float) -> float:
    """The share of its weight that a backend of that age has: a tenth at first, all of it after `slow_start_s`."""
    return 1.0 if age_s >= slow_start_s else max(_COLDEST, age_s / slow_start_s)
