"""Weighted, optionally sticky choice of a variant.

Monotone stickiness: a key's point in [0, 1) is fixed by the key and the route's salt; variants lie on that line in
reverse order of the configuration, so the one listed first (the stable one) keeps the far end. A candidate whose
weight grows therefore only gains keys, and one that shrinks only loses them.
"""

from collections.abc import Sequence
from hashlib import blake2b

_SPAN = float(1 << 64)


def thresholds(weights: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """Upper bounds on the unit line with the index each belongs to, last configured first.

    Weights need not sum to 100 but their sum must be positive; the last bound is above one, so that rounding
    never leaves a point without a variant. Variants of weight zero do not appear.
    """
    total = sum(weights)
    bounds: list[tuple[float, int]] = []
    at = 0.0
    for i in range(len(weights) - 1, -1, -1):
        if weights[i] > 0:
            at += weights[i] / total
            bounds.append((at, i))
    bounds[-1] = (2.0, bounds[-1][1])
    return tuple(bounds)


def pick(bounds: tuple[tuple[float, int], ...], point: float) -> int:
    """The index whose stretch of the unit line holds the point."""
    for bound, i in bounds:
        if point < bound:
            return i
    raise ValueError(f"point {point} is outside [0, 1)")


def sticky_point(key: bytes, salt: bytes) -> float:
    """A key's place in [0, 1), uniform over keys and independent between salts (at most 16 bytes of salt count)."""
    return int.from_bytes(blake2b(key, digest_size=8, salt=salt[:16]).digest(), "little") / _SPAN
