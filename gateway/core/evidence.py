"""Evidence that a candidate is worse, or good enough, from counts of bad outcomes; valid however often one looks.

Requests are drawn to the candidate at random with a known share s. So a bad outcome came from the candidate with
probability s if it is no worse, and with p(r) = r s / (r s + 1 - s) if it is r times as likely to produce one. With x
of n bad outcomes on the candidate the likelihood of r is proportional to r^x / (1 - s + r s)^n. Its product over
stages, each with its own share, averaged over a grid of r and divided by that of the boundary of the null hypothesis,
is a non-negative supermartingale under the null: it reaches 1/alpha with probability at most alpha, at any time and
however often it is looked at (Ville's inequality; Waudby-Smith and Ramdas, and Johari et al., on such e-processes).

Everything here takes the stages along the last axis and broadcasts over the others, so that simulations of many
rollouts run the same code as the controller does. Counts may be fractions: an outcome that counts w < 1 enters with
exponent w, which keeps a supermartingale one (Jensen's inequality).
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, xlog1py, xlogy

Floats = NDArray[np.float64]

WORSE: Final[Floats] = np.array([1.5, 2, 3, 5, 10, 20, 50, 100, 300, 1000])
"""Alternatives to "no worse": how many times as likely to fail, times what is tolerated."""

BETTER: Final[Floats] = 1 / np.array([1.25, 1.5, 2, 3, 5, 10, 30])
"""Alternatives to "worse by the margin": fractions of the margin."""

_RATIOS: Final[Floats] = np.exp(np.linspace(np.log(1 / 1024), np.log(1024), 401))


def _log_likelihood(x: ArrayLike, n: ArrayLike, share: ArrayLike, ratios: Floats) -> Floats:
    """Log-likelihood of each ratio over all stages (last axis: ratios), up to a constant that ratios share."""
    x, n, share = (np.asarray(a, dtype=np.float64)[..., None] for a in (x, n, share))
    total: Floats = x.sum(axis=-2) * np.log(ratios) - (n * np.log1p(share * (ratios - 1))).sum(axis=-2)
    return total


def log_mean(logs: ArrayLike) -> Floats:
    """Log of the mean of what `logs` are the logarithms of, over the last axis."""
    values = np.asarray(logs, dtype=np.float64)
    top = values.max(axis=-1)
    result: Floats = top + np.log(np.exp(values - top[..., None]).mean(axis=-1))
    return result


def log_worse(x: ArrayLike, n: ArrayLike, share: ArrayLike, *, tolerance: float = 1.0) -> Floats:
    """Log evidence against "at most `tolerance` times as likely to fail".

    Args:
        x: bad outcomes on the candidate, stages along the last axis.
        n: bad outcomes on candidate and reference together.
        share: the candidate's share in each stage, in (0, 1).
        tolerance: the ratio that is not worse.
    """
    null = _log_likelihood(x, n, share, np.array([tolerance]))
    return log_mean(_log_likelihood(x, n, share, tolerance * WORSE) - null)


def log_fine(x: ArrayLike, n: ArrayLike, share: ArrayLike, *, margin: float) -> Floats:
    """Log evidence against "at least `margin` times as likely to fail"; arguments as in `log_worse`."""
    null = _log_likelihood(x, n, share, np.array([margin]))
    return log_mean(_log_likelihood(x, n, share, margin * BETTER) - null)


def ratio(x: ArrayLike, n: ArrayLike, share: ArrayLike) -> float | None:
    """Most likely ratio; None without a bad outcome, 1024 for "only the candidate fails"."""
    if not np.sum(n):
        return None
    likelihood = _log_likelihood(x, n, share, _RATIOS)
    best = float(_RATIOS[int(np.argmax(likelihood))])
    return 0.0 if not np.sum(x) else best


def ratio_interval(x: ArrayLike, n: ArrayLike, share: ArrayLike, *, alpha: float) -> tuple[float, float | None]:
    """Ratios that the data do not contradict: (low, high), high None when unbounded.

    Covers the true ratio at all times together with probability 1 - alpha: a ratio is left out once the evidence of
    the whole grid (1/1024 to 1024) against it reaches 1/alpha.
    """
    likelihood = _log_likelihood(x, n, share, _RATIOS)
    kept = np.flatnonzero(log_mean(likelihood) - likelihood < -np.log(alpha))
    low, high = int(kept[0]), int(kept[-1])
    return (
        float(_RATIOS[low - 1]) if low else 0.0,
        float(_RATIOS[high + 1]) if high + 1 < len(_RATIOS) else None,
    )


def log_share_mismatch(x: ArrayLike, n: ArrayLike, share: ArrayLike, *, weight: float = 200.0) -> Floats:
    """Log evidence that the observed split is not the one that was set (sample ratio mismatch).

    A Beta prior around the set share, worth `weight` observations, against the share itself, per stage; the product
    over stages is an e-process (Lindon and Malek, 2022).

    Args:
        x: requests (or sticky keys) assigned to the candidate, stages along the last axis.
        n: to candidate and reference together.
        share: the candidate's share in each stage.
        weight: of the prior.
    """
    x, n, share = (np.asarray(a, dtype=np.float64) for a in (x, n, share))
    a, b = weight * share, weight * (1 - share)
    log_e = betaln(a + x, b + n - x) - betaln(a, b) - xlogy(x, share) - xlog1py(n - x, -share)
    total: Floats = log_e.sum(axis=-1)
    return total
