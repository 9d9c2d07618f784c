"""How differently predictions are spread: population stability index, Kolmogorov-Smirnov distance, and binning.

PSI and KS are sizes of an effect, not tests. Used as guardrails they are looked at only when the candidate's sample has
doubled, each look with its own part of alpha (6 / (pi j)^2 of it at look j), so that looking never adds up to more.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, kstwobign

from gateway.core.rollout_policy import DriftGate

FIRST_LOOK = 100


def _aligned(a: Mapping[int, float], b: Mapping[int, float], bins: int) -> tuple[NDArray[np.float64], ...]:
    return (
        np.array([a.get(k, 0.0) for k in range(bins)], dtype=np.float64),
        np.array([b.get(k, 0.0) for k in range(bins)], dtype=np.float64),
    )


def psi(candidate: Mapping[int, float], reference: Mapping[int, float], bins: int) -> float:
    """Population stability index of two histograms; half an observation is added per bin. nan without data."""
    c, r = _aligned(candidate, reference, bins)
    if not c.sum() or not r.sum():
        return math.nan
    p, q = (c + 0.5) / (c.sum() + bins / 2), (r + 0.5) / (r.sum() + bins / 2)
    return float(np.sum((p - q) * np.log(p / q)))


def psi_chance(value: float, candidate: float, reference: float, bins: int) -> float:
    """Chance of a PSI at least as large between samples of these sizes from one distribution (chi-squared limit)."""
    if not candidate or not reference or math.isnan(value):
        return 1.0
    return float(chi2.sf(value / (1 / candidate + 1 / reference), bins - 1))


def ks(candidate: Mapping[int, float], reference: Mapping[int, float], bins: int) -> float:
    """Largest distance of the two distribution functions at the bins' upper edges; nan without data."""
    c, r = _aligned(candidate, reference, bins)
    if not c.sum() or not r.sum():
        return math.nan
    return float(np.max(np.abs(np.cumsum(c) / c.sum() - np.cumsum(r) / r.sum())))


def ks_chance(value: float, candidate: float, reference: float) -> float:
    """Chance of a distance at least as large from one distribution; an upper bound for binned data."""
    if not candidate or not reference or math.isnan(value):
        return 1.0
    return float(kstwobign.sf(value * math.sqrt(candidate * reference / (candidate + reference))))


def look_alpha(alpha: float, look: int) -> float:
    """Part of alpha that look number `look` (from 1) may spend; over all looks they sum to alpha."""
    return alpha * 6.0 / (math.pi * look) ** 2


def bin_answer(values: NDArray[np.generic], gate: DriftGate) -> dict[int, float]:
    """One answer's predictions by bin, 1 in all: each of its rows adds 1 / rows.

    Args:
        values: the output tensor; rows along the first axis. `argmax` takes the last axis as classes.
        gate: what the values mean.

    Raises:
        ValueError: when the tensor is empty or not numeric. A NaN score falls into the last bin, never out of sight.
    """
    array = np.asarray(values)
    if array.size == 0 or array.dtype.kind not in "biuf":
        raise ValueError(f"output {gate.output!r} holds no numbers (shape {array.shape}, dtype {array.dtype})")
    if gate.kind == "argmax":
        found = array.reshape(-1, array.shape[-1] if array.ndim else 1).argmax(axis=-1)
    elif gate.kind == "label":
        found = np.nan_to_num(array.reshape(-1).astype(np.float64), nan=gate.classes, posinf=gate.classes).astype(
            np.int64
        )
    else:
        found = np.searchsorted(np.asarray(gate.edges), array.reshape(-1).astype(np.float64), side="right")
    found = np.clip(found, 0, gate.bins - 1)
    bins, counts = np.unique(found, return_counts=True)
    return {int(k): float(count) / len(found) for k, count in zip(bins, counts, strict=True)}
