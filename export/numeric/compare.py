"""One output against its reference: pure arithmetic."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.numeric.tolerance import Tolerance
from export.state import Observed

Array = npt.NDArray[np.generic]
UNBOUNDED = sys.float_info.max  # what JSON can carry in place of infinity
_MIN_COSINE_WIDTH = 8  # a cosine over fewer values judges rounding, not direction


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was seen, the first reason to refuse (empty when none), and the row that was worst."""

    observed: Observed
    reason: str
    worst_row: int


def compare(case: str, actual: Array, reference: Array, tolerance: Tolerance) -> Comparison:
    """Judge `actual` by the rule of export.numeric.tolerance; shape and type must be the reference's own."""
    nothing = Observed(max_abs=0.0, excess=0.0, cosine=1.0, mismatched=0.0, case=case)
    if actual.shape != reference.shape:
        return Comparison(nothing, f"shape {list(actual.shape)} where the reference has {list(reference.shape)}", 0)
    if actual.dtype != reference.dtype:
        return Comparison(nothing, f"type {actual.dtype} where the reference has {reference.dtype}", 0)
    if actual.size == 0:
        return Comparison(nothing, "", 0)
    if not np.issubdtype(actual.dtype, np.floating):
        return _exact(case, actual, reference, tolerance)
    return _floats(case, actual.astype(np.float64), reference.astype(np.float64), tolerance)


def _exact(case: str, actual: Array, reference: Array, tolerance: Tolerance) -> Comparison:
    wrong = actual != reference
    share = float(wrong.mean())
    row = _worst_row(wrong.astype(np.float64))
    largest = 0.0
    if share and np.issubdtype(actual.dtype, np.number):
        largest = float(np.abs(actual.astype(np.float64) - reference.astype(np.float64)).max())
    seen = Observed(max_abs=largest, excess=0.0, cosine=1.0, mismatched=share, case=case)
    if share > tolerance.mismatch:
        return Comparison(seen, f"{share:.4%} of the values differ, {tolerance.mismatch:.4%} may", row)
    return Comparison(seen, "", row)


def _floats(
    case: str, actual: npt.NDArray[np.float64], reference: npt.NDArray[np.float64], tolerance: Tolerance
) -> Comparison:
    finite = np.isfinite(reference)
    odd = np.where(finite, ~np.isfinite(actual), ~((actual == reference) | (np.isnan(actual) & np.isnan(reference))))
    if odd.any():
        seen = Observed(max_abs=UNBOUNDED, excess=UNBOUNDED, cosine=0.0, mismatched=float(odd.mean()), case=case)
        return Comparison(
            seen,
            f"{int(odd.sum())} values are not finite where the reference is, or the reverse",
            _worst_row(odd.astype(np.float64)),
        )
    a, r = np.where(finite, actual, 0.0), np.where(finite, reference, 0.0)
    error = np.abs(a - r)
    rms = float(np.sqrt(np.square(r).sum() / max(int(finite.sum()), 1)))
    allowed = tolerance.rtol * np.abs(r) + tolerance.k * rms
    excess = np.divide(error, allowed, out=np.where(error > 0, UNBOUNDED, 0.0), where=allowed > 0)
    cosine = _least_cosine(a, r)
    row = _worst_row(excess)
    seen = Observed(max_abs=float(error.max()), excess=float(excess.max()), cosine=cosine, mismatched=0.0, case=case)
    if seen.excess > 1:
        return Comparison(
            seen, f"off by {seen.max_abs:.3g}, {seen.excess:.3g} times what the tolerance allows (row {row})", row
        )
    if cosine < tolerance.cosine:
        return Comparison(seen, f"cosine {cosine:.6f} where at least {tolerance.cosine} is asked", row)
    return Comparison(seen, "", row)


def _least_cosine(a: npt.NDArray[np.float64], r: npt.NDArray[np.float64]) -> float:
    rows = a.shape[0] if a.ndim else 1
    if a.size // rows < _MIN_COSINE_WIDTH:
        rows = 1
    a, r = a.reshape(rows, -1), r.reshape(rows, -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(r, axis=1)
    same = np.all(a == r, axis=1)
    cosines = np.divide((a * r).sum(axis=1), norms, out=np.where(same, 1.0, 0.0), where=norms > 0)
    return float(np.clip(cosines.min(), -1.0, 1.0))


def _worst_row(badness: npt.NDArray[np.float64]) -> int:
    if badness.ndim == 0:
        return 0
    return int(badness.reshape(badness.shape[0], -1).max(axis=1).argmax())


def worse(first: Observed | None, second: Observed) -> Observed:
    """The two joined: each figure is the worse one, the case that of the larger excess or mismatch."""
    if first is None:
        return second
    later = (second.excess, second.mismatched) > (first.excess, first.mismatched)
    return Observed(
        max_abs=max(first.max_abs, second.max_abs),
        excess=max(first.excess, second.excess),
        cosine=min(first.cosine, second.cosine),
        mismatched=max(first.mismatched, second.mismatched),
        case=second.case if later else first.case,
    )
