"""Simulated traffic of many rollouts at once: per second, requests and bad outcomes on either arm.

Every generator yields seconds of arrays over rollouts. The null scenarios have a candidate exactly as good as the old
version; they differ in how bad outcomes cluster.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Second:
    """One second over all rollouts: requests (c, m) and bad outcomes (x, y) on candidate and old version.

    `units` are what the test counts, (x, y), where that is not the bad requests themselves: keys first seen bad.
    """

    share: float | Floats
    c: Floats
    m: Floats
    x: Floats
    y: Floats
    units: tuple[Floats, Floats] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Shares in force and for how long each, looked at every second."""

    shares: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    step_s: int = 300
    rate: float = 500.0

    @property
    def seconds(self) -> int:
        """Length of the whole trace."""
        return self.step_s * len(self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One setting: base rate of bad outcomes, the candidate's (as a multiple, or outright), and how they cluster.

    What multiplies the rates, by `kind`, stays as it is for `lasts_s` seconds.
    """

    name: str
    base: float
    ratio: float = 1.0
    worse: float | None = None
    kind: str = "independent"
    lasts_s: int = 1
    by_key: bool = False

    @property
    def candidate(self) -> float:
        """The candidate's rate of bad outcomes."""
        return min(1.0, self.base * self.ratio) if self.worse is None else self.worse

    @property
    def null(self) -> bool:
        """Whether the candidate is no worse."""
        return self.candidate <= self.base


Factors = tuple[Floats, Floats]
Rates = Callable[[np.random.Generator, int, int], Factors]

OUTAGE_EVERY_S: Final = 200
"""Mean seconds between two outages of an arm, where there are outages."""


def _independent(rng: np.random.Generator, size: int, lasts_s: int) -> Factors:
    return np.ones(size), np.ones(size)


def _common_bursts(rng: np.random.Generator, size: int, lasts_s: int) -> Factors:
    factor = rng.gamma(0.2, 5.0, size)
    return factor, factor


def _arm_bursts(rng: np.random.Generator, size: int, lasts_s: int) -> Factors:
    return rng.gamma(0.5, 2.0, size), rng.gamma(0.5, 2.0, size)


def _arm_outages(rng: np.random.Generator, size: int, lasts_s: int) -> Factors:
    part = lasts_s / OUTAGE_EVERY_S
    return np.where(rng.random(size) < part, np.inf, 1.0), np.where(rng.random(size) < part, np.inf, 1.0)


_RATES: Final[dict[str, Rates]] = {
    "independent": _independent,
    "common": _common_bursts,
    "arm": _arm_bursts,
    "outage": _arm_outages,
}

BATCH: Final = 8
"""Requests that fail together in the batch scenario."""


def seconds(scenario: Scenario, schedule: Schedule, rng: np.random.Generator, size: int) -> Iterator[Second]:
    """The trace of `size` rollouts of a scenario, second by second."""
    if scenario.kind == "keys":
        yield from _keyed(scenario, schedule, rng, size)
        return
    factors: Factors | None = None
    for t in range(schedule.seconds):
        if scenario.lasts_s > 1 and t % scenario.lasts_s == 0:
            factors = _RATES[scenario.kind](rng, size, scenario.lasts_s)
        yield second(scenario, schedule.shares[t // schedule.step_s], schedule.rate, rng, size, factors=factors)


def second(
    scenario: Scenario,
    weight: float | Floats,
    rate: float,
    rng: np.random.Generator,
    size: int,
    *,
    share: float | Floats | None = None,
    baseline: float | Floats = 0.0,
    factors: Factors | None = None,
) -> Second:
    """One second with the candidate at a weight (one for all, or one per rollout); not for repeated keys.

    Args:
        scenario: what happens.
        weight: the candidate's part of the traffic.
        rate: requests per second of the route.
        rng: randomness.
        size: number of rollouts.
        share: the candidate's share among what is compared; its weight when there is no baseline arm.
        baseline: the equal arm's part of the traffic; with one, only its bad outcomes are compared.
        factors: what multiplies the rates of candidate and old version; drawn for this second alone when None.
    """
    weight = np.broadcast_to(np.asarray(weight, dtype=np.float64), size)
    c, m = rng.poisson(rate * weight), rng.poisson(rate * (1 - weight))
    if scenario.kind == "batch":
        x = np.minimum(c, BATCH * rng.poisson(c * scenario.candidate / BATCH))
        y = np.minimum(m, BATCH * rng.poisson(m * scenario.base / BATCH))
    else:
        a, b = factors or _RATES[scenario.kind](rng, size, scenario.lasts_s)
        x = rng.binomial(c, np.minimum(scenario.candidate * a, 1.0))
        y = rng.binomial(m, np.minimum(scenario.base * b, 1.0))
    part = np.broadcast_to(np.asarray(baseline, dtype=np.float64), size)
    beside = np.where(part > 0, rng.binomial(y, np.minimum(part / np.maximum(1 - weight, 1e-9), 1.0)), y)
    requests, others, bad, other_bad, reference = (np.asarray(v, dtype=np.float64) for v in (c, m, x, y, beside))
    return Second(weight if share is None else share, requests, others, bad, other_bad, (bad, reference))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """A population of sticky keys: Zipf-distributed traffic, and some keys that nearly always fail."""

    count: int = 1000
    zipf: float = 0.8
    poisoned: float = 0.01
    poison_rate: float = 0.5
    weights: Floats = field(init=False)

    def __post_init__(self) -> None:
        weights = 1.0 / np.arange(1, self.count + 1) ** self.zipf
        object.__setattr__(self, "weights", weights / weights.sum())


def _keyed(
    scenario: Scenario, schedule: Schedule, rng: np.random.Generator, size: int, keys: Keys | None = None
) -> Iterator[Second]:
    """Sticky traffic. Each key has a place on the unit line and a propensity to fail of its own, whichever the arm."""
    keys = keys or Keys()
    place = rng.random((size, keys.count), dtype=np.float32)
    poisoned = rng.random((size, keys.count), dtype=np.float32) < keys.poisoned
    rates = (schedule.rate * keys.weights).astype(np.float32)
    bad_rate = rates * np.where(poisoned, np.float32(keys.poison_rate), np.float32(scenario.base))
    first = np.full((size, keys.count), np.inf, dtype=np.float32)
    ratio = np.float32(scenario.candidate / scenario.base)
    for step, share in enumerate(schedule.shares):
        mine = place < share
        current = bad_rate * np.where(mine, ratio, np.float32(1.0))
        current = np.minimum(current, rates)
        start = step * schedule.step_s
        # Time to the first bad request of this step; memoryless, so drawn anew for keys that were never bad.
        when = start + rng.standard_exponential((size, keys.count), dtype=np.float32) / np.maximum(current, 1e-9)
        fresh = np.isinf(first) & (when < start + schedule.step_s)
        first[fresh] = when[fresh]
        at = np.where(fresh, (when - start).astype(np.int32), -1)
        units_x = _per_second(at, fresh & mine, schedule.step_s)
        units_y = _per_second(at, fresh & ~mine, schedule.step_s)
        total_x, total_y = (current * mine).sum(axis=1), (current * ~mine).sum(axis=1)
        load_x, load_y = (rates * mine).sum(axis=1), (rates * ~mine).sum(axis=1)
        for t in range(schedule.step_s):
            x, y = rng.poisson(total_x).astype(np.float64), rng.poisson(total_y).astype(np.float64)
            c = x + rng.poisson(np.maximum(load_x - total_x, 0.0))
            m = y + rng.poisson(np.maximum(load_y - total_y, 0.0))
            yield Second(share, c, m, x, y, (units_x[:, t], units_y[:, t]))


def _per_second(at: NDArray[np.int32], chosen: NDArray[np.bool_], length: int) -> Floats:
    counts = np.zeros((at.shape[0], length))
    rows, columns = np.nonzero(chosen)
    np.add.at(counts, (rows, at[rows, columns]), 1.0)
    return counts


NULLS: Final = (
    Scenario(name="independent, 0.05 %", base=0.0005),
    Scenario(name="independent, 1 %", base=0.01),
    Scenario(name="independent, 5 %", base=0.05),
    Scenario(name="incidents that hit both arms, 1 %", base=0.01, kind="common"),
    Scenario(name="bursts of either arm by itself, 1 %", base=0.01, kind="arm"),
    Scenario(name="bursts of either arm by itself, 5 %", base=0.05, kind="arm"),
    Scenario(name=f"failed batches of {BATCH}, 1 %", base=0.01, kind="batch"),
    Scenario(name=f"failed batches of {BATCH}, 5 %", base=0.05, kind="batch"),
    Scenario(name="repeated sticky keys, counted by key", base=0.0005, kind="keys", by_key=True),
    Scenario(name="repeated sticky keys, counted by request (unsound)", base=0.0005, kind="keys"),
)

BEYOND: Final = (
    Scenario(name="bursts of either arm by itself that last 3 s, 1 %", base=0.01, kind="arm", lasts_s=3),
    Scenario(name="bursts of either arm by itself that last 3 s, 5 %", base=0.05, kind="arm", lasts_s=3),
    Scenario(name="outages of either arm by itself for 1 s, else 0.05 %", base=0.0005, kind="outage"),
    Scenario(name="outages of either arm by itself for 3 s, else 0.05 %", base=0.0005, kind="outage", lasts_s=3),
)
"""Causes that sit on one arm and last as long as a block, or longer: shown, nothing is promised of them."""

REGRESSIONS: Final = (
    Scenario(name="0.05 % to 100 %", base=0.0005, ratio=2000),
    Scenario(name="0.05 % to 10 %", base=0.0005, ratio=200),
    Scenario(name="0.1 % to 5 %", base=0.001, ratio=50),
    Scenario(name="0.1 % to 1 %", base=0.001, ratio=10),
    Scenario(name="1 % to 5 %", base=0.01, ratio=5),
    Scenario(name="1 % to 2 %", base=0.01, ratio=2),
)
