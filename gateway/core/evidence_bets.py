"""Evidence on rates themselves: a rate against an objective, and the difference of two rates against a tolerance.

Each is the wealth of a gambler who bets on the candidate being worse (or better) than the null hypothesis says, at
odds that are fair under it. Wealth is a non-negative supermartingale under the null, so it reaches 1/alpha with
probability at most alpha at any time (Waudby-Smith and Ramdas, 2024). The mean over several stakes is again one.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from gateway.core.evidence import Floats, log_mean

STAKES: Final[Floats] = np.array([0.01, 0.03, 0.1, 0.3, 0.6])
"""Parts of the largest stake at which a loss never ruins."""

_HALVINGS = 10

_RATES: Final[Floats] = np.array([0.0, 0.1, 0.25, 0.5, 0.75])


def bet_above(objective: float, bad: ArrayLike, seen: ArrayLike) -> Floats:
    """One second's growth of log wealth, per stake (last axis), on "the rate is above the objective".

    Bets on the second's mean, so that outcomes of one second may depend on each other in any way.

    Args:
        objective: rate in (0, 1) that is still kept.
        bad: bad outcomes in the second.
        seen: outcomes in the second; a second without any leaves the wealth as it is.
    """
    bad, seen = np.asarray(bad, dtype=np.float64), np.asarray(seen, dtype=np.float64)
    mean = np.divide(bad, seen, out=np.full(np.shape(seen), objective), where=seen > 0)
    growth: Floats = np.log1p(STAKES / objective * (mean - objective)[..., None])
    return growth


def log_wealth(stakes: ArrayLike) -> Floats:
    """Log of the mean wealth over the stakes (last axis)."""
    return log_mean(stakes)


def log_rate_below(objective: float, bad: ArrayLike, seen: ArrayLike) -> Floats:
    """Log evidence against "the rate is at least `objective`", for independent outcomes.

    The likelihood ratio of lower rates, averaged. Seen outcomes may be scaled down for dependence.
    """
    bad, seen = (np.asarray(a, dtype=np.float64)[..., None] for a in (bad, seen))
    good = seen - bad
    lower = _RATES * objective
    with np.errstate(divide="ignore", invalid="ignore"):
        hit = np.where(bad > 0, bad * np.log(_RATES), 0.0)
    return log_mean(hit + good * (np.log1p(-lower) - np.log1p(-objective)))


def _log_bets(x: ArrayLike, y: ArrayLike, n: ArrayLike, share: ArrayLike, *, difference: float, sign: int) -> Floats:
    x, y, n, s = (np.asarray(a, dtype=np.float64)[..., None] for a in (x, y, n, share))
    # Payoff per outcome, with the mean (rate - reference rate - difference): 1/s - difference for a bad one on the
    # candidate, -1/(1-s) - difference for a bad one on the reference, -difference for a good one on either.
    alone = s >= 1
    other = np.where(alone, 0.0, 1 / np.where(alone, 1.0, 1 - s))
    worst = other + difference if sign > 0 else np.maximum(1 / s - difference, difference)
    stake = sign * STAKES / np.maximum(worst, 1e-9)
    total = (
        x * np.log1p(stake * (1 / s - difference))
        + y * np.log1p(stake * (-other - difference))
        + (n - x - y) * np.log1p(-stake * difference)
    )
    return log_mean(total.sum(axis=-2))


def log_difference_above(
    bad: ArrayLike, bad_reference: ArrayLike, seen: ArrayLike, share: ArrayLike, *, difference: float
) -> Floats:
    """Log evidence against "the candidate's bad rate exceeds the reference's by at most `difference`".

    Args:
        bad: bad outcomes on the candidate, stages along the last axis.
        bad_reference: bad outcomes on the reference.
        seen: outcomes of both together, good and bad.
        share: chance that an outcome is the candidate's, per stage; 1 when there is no reference.
        difference: in [0, 1).
    """
    return _log_bets(bad, bad_reference, seen, share, difference=difference, sign=1)


def log_difference_below(
    bad: ArrayLike, bad_reference: ArrayLike, seen: ArrayLike, share: ArrayLike, *, difference: float
) -> Floats:
    """Log evidence against "the candidate's bad rate exceeds the reference's by at least `difference`"."""
    return _log_bets(bad, bad_reference, seen, share, difference=difference, sign=-1)


def difference_interval(
    bad: ArrayLike, bad_reference: ArrayLike, seen: ArrayLike, share: ArrayLike, *, alpha: float
) -> tuple[float, float]:
    """Differences of the bad rates that the data do not contradict, as (low, high) to about 0.002.

    Covers the true difference at all times together with probability 1 - alpha: the evidence against "at most d" only
    falls as d grows, and that against "at least d" only rises, so one test each decides for all differences beyond.

    Arguments as in `log_difference_above`; without a reference (share 1) the difference is a rate, and not negative.
    """
    bound, counts = np.log(2 / alpha), (bad, bad_reference, seen, share)
    least = 0.0 if np.min(share) >= 1 else -1.0
    step = 2.0**-_HALVINGS

    def too_low(d: float) -> bool:
        return bool(log_difference_above(*counts, difference=d) >= bound)

    def too_high(d: float) -> bool:
        return bool(log_difference_below(*counts, difference=d) >= bound)

    low = _last(too_low, least + step, 1.0 - step) if too_low(least + step) else least
    high = _last(too_high, 1.0 - step, least + step) if too_high(1.0 - step) else 1.0
    return min(low, high), max(low, high)  # outcomes that fit no difference at all leave the stretch in between


def _last(holds: Callable[[float], bool], at: float, to: float) -> float:
    """The last point from `at`, where it holds, towards `to` at which it still does; for what holds up to a point."""
    for _ in range(_HALVINGS):
        middle = (at + to) / 2
        at, to = (middle, to) if holds(middle) else (at, middle)
    return at
