"""Judges over many simulated rollouts at once: ours, and two others as they are commonly set up.

Each takes in seconds and tells, per rollout, when it gave up on the candidate.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from gateway.core.evidence import log_fine, log_worse
from gateway.core.evidence_bets import STAKES, log_rate_below, log_wealth
from gateway.core.evidence_dispersion import Dispersion
from gateway.core.evidence_state import RECENT_DECAY, gate_alpha
from gateway.core.gates_absolute import OLD_RATE_SLACK
from gateway.core.rollout_policy import Guardrails, RolloutPolicy
from gateway.verdicts.traffic import Floats, Second

Bools = NDArray[np.bool_]


class Judge(Protocol):
    """Takes one second of all rollouts and says which it would abort now."""

    name: str

    def take(self, second: Second, stage: int) -> Bools:
        """Rollouts that it aborts after this second, shape (rollouts,)."""
        ...


class Sluice:
    """The errors gate and the error-rate guardrail of a policy, with its alpha split over all its gates.

    The same functions as the controller calls, over arrays.

    Args:
        size: number of rollouts.
        shares: the candidate's share in each stage.
        policy: what is simulated.
        guardrail: off where its counts mean nothing (keys).

    Attributes:
        worse: rollouts whose errors gate failed at the last second, whatever the guardrail says.
    """

    name = "Sluice"

    def __init__(self, size: int, shares: Floats, policy: RolloutPolicy, *, guardrail: bool = True) -> None:
        self._policy = policy
        self._guard = policy.gates.guardrails if guardrail else None
        self.shares = np.asarray(shares, dtype=np.float64)
        self.x, self.n = np.zeros((size, len(self.shares))), np.zeros((size, len(self.shares)))
        self.worse = np.zeros(size, dtype=bool)
        zero = np.zeros(size)
        self._dispersion = Dispersion(
            total=zero, pairs=zero, mixed=zero, expected=zero, seconds=zero, stage_bad=zero, stage_total=zero
        )
        self.wealth = np.zeros((size, len(STAKES)))
        self._recent_bad, self._recent_seen = zero.copy(), zero.copy()
        self._old_bad, self._old_seen = zero.copy(), zero.copy()
        self._stage = np.zeros(size, dtype=np.int64)
        self.stage_bad, self.stage_seen = zero.copy(), zero.copy()

    def remember(self, bad: Floats, seen: Floats) -> None:
        """What the old version did before the rollout: bad outcomes and requests per rollout."""
        self._old_bad, self._old_seen = self._old_bad + bad, self._old_seen + seen

    def take(self, second: Second, stage: int | NDArray[np.int64]) -> Bools:
        """One second; `stage` may differ between rollouts."""
        x, y = second.units or (second.x, second.y)
        n = x + y
        now = np.broadcast_to(np.asarray(stage, dtype=np.int64), x.shape)
        share = self.shares[now]
        moved = now != self._stage
        self._stage = now.copy()
        d = self._dispersion
        d = replace(d, stage_bad=np.where(moved, 0.0, d.stage_bad), stage_total=np.where(moved, 0.0, d.stage_total))
        weight: Floats = np.asarray(d.weight(n))
        if self._policy.clusters != "learn":
            weight = np.ones_like(n) if self._policy.clusters == "none" else 1.0 / np.maximum(n, 1.0)
        self._dispersion = d.after(x, n, share)  # type: ignore[arg-type]
        rows = np.arange(len(x))
        self.x[rows, now] += weight * x
        self.n[rows, now] += weight * n
        self.stage_bad = np.where(moved, 0.0, self.stage_bad) + second.x
        self.stage_seen = np.where(moved, 0.0, self.stage_seen) + second.c
        self.worse = self._worse()
        return self.worse | self._missed(second)

    def _worse(self) -> Bools:
        gate = self._policy.gates.errors
        if gate is None:
            return np.zeros(len(self.x), dtype=bool)
        # Two of the gate's three checks (client errors, sheds) never see anything here: evidence 1 each.
        found = np.logaddexp(log_worse(self.x, self.n, self.shares, tolerance=gate.tolerance_ratio), np.log(2.0))
        crossed: Bools = found - np.log(3.0) >= -np.log(gate_alpha(self._policy, "errors"))
        return crossed

    def _missed(self, second: Second) -> Bools:
        if self._guard is None:
            return np.zeros(len(second.x), dtype=bool)
        self._recent_bad = self._recent_bad * RECENT_DECAY + second.y
        self._recent_seen = self._recent_seen * RECENT_DECAY + second.m
        now = second.y / np.maximum(second.m, 1.0)
        recent = self._recent_bad / np.maximum(self._recent_seen, 1.0)
        ever = self._old_bad / np.maximum(self._old_seen, 1.0)
        self._old_bad, self._old_seen = self._old_bad + second.y, self._old_seen + second.m
        allowed = np.clip(np.max([now, recent, ever], axis=0), self._guard.error_rate, 1.0)
        seen = second.c > 0
        mean = np.where(seen, second.x / np.maximum(second.c, 1.0), allowed)
        self.wealth += np.log1p(STAKES * (mean / allowed - 1.0)[:, None])
        # Two of the three objectives (p50, p99) are kept here: evidence 1 each.
        found = np.logaddexp(log_wealth(self.wealth), np.log(2.0)) - np.log(3.0)
        crossed: Bools = found >= -np.log(gate_alpha(self._policy, "guardrails"))
        return crossed

    def passes(self, slack: Floats) -> Bools:
        """Rollouts whose errors gate passes at their stage's slack, and whose own error rate keeps the objective."""
        gate, guard = self._policy.gates.errors, self._policy.gates.guardrails
        objective = (guard or Guardrails()).error_rate or Guardrails().error_rate
        passed = np.ones(len(self.x), dtype=bool)
        if gate is not None:
            for value in np.unique(slack):
                at = slack == value
                below = log_rate_below(objective * float(value), self.stage_bad[at], self.stage_seen[at])
                relative = log_fine(self.x[at], self.n[at], self.shares, margin=gate.margin_ratio * float(value))
                passed[at] = np.maximum(below, relative) >= -np.log(self._policy.beta)
        if guard is not None:
            old = OLD_RATE_SLACK * self._old_bad / np.maximum(self._old_seen, 1.0)
            passed &= self.stage_bad / np.maximum(self.stage_seen, 1.0) <= slack * np.maximum(objective, old)
        return passed


class ErrorsGateAlone:
    """What `Sluice` would have done without its guardrail; asked after it, of the same seconds."""

    name = "Sluice, errors gate alone"

    def __init__(self, whole: Sluice) -> None:
        self._whole = whole

    def take(self, second: Second, stage: int) -> Bools:
        """The other judge's errors gate at this second."""
        return self._whole.worse


class IntervalThreshold:
    """Flagger's way: every interval the candidate's success rate is checked; so many failed checks end the rollout.

    60 s, 5 failed checks and a success rate of 99 % are the values of its documentation. No traffic is a failed check.
    """

    name = "interval x threshold (60 s, 5 checks, 99 %)"

    def __init__(self, size: int, *, interval_s: int = 60, threshold: int = 5, success: float = 0.99) -> None:
        self._interval, self._threshold, self._success = interval_s, threshold, success
        self._bad, self._seen = np.zeros(size), np.zeros(size)
        self._failed = np.zeros(size, dtype=np.int64)
        self._clock = 0

    def take(self, second: Second, stage: int) -> Bools:
        """One second; checks fail only at the end of an interval."""
        self._bad += second.x
        self._seen += second.c
        self._clock += 1
        if self._clock % self._interval == 0:
            self._failed += self._seen * self._success > self._seen - self._bad
            self._failed += self._seen == 0
            self._bad[:], self._seen[:] = 0.0, 0.0
        return self._failed >= self._threshold


class MannWhitney:
    """Kayenta's way: a rank test of the candidate's per-second error rates against an equal baseline's, each minute.

    One-sided at 98 % with at least 50 points of the running step, and a higher mean, as in its default judge.
    """

    name = "Mann-Whitney each minute (98 %, 50 points)"

    def __init__(self, size: int, rng: np.random.Generator, *, every_s: int = 60, level: float = 0.02) -> None:
        self._rng, self._every, self._level = rng, every_s, level
        self._points: list[tuple[Floats, Floats]] = []
        self._size, self._stage = size, -1

    def take(self, second: Second, stage: int) -> Bools:
        """One second; tests at the end of each minute."""
        if stage != self._stage:
            self._points, self._stage = [], stage
        thin = second.share / (1 - second.share)
        bad = np.minimum(second.y, second.m).astype(np.int64)
        m = self._rng.binomial(second.m.astype(np.int64), np.minimum(thin, 1.0))
        good = self._rng.hypergeometric(second.m.astype(np.int64) - bad, bad, m)
        rate, reference = second.x / np.maximum(second.c, 1.0), (m - good) / np.maximum(m, 1.0)
        self._points.append((rate, reference))
        if len(self._points) < 50 or len(self._points) % self._every:
            return np.zeros(self._size, dtype=bool)
        a = np.stack([p[0] for p in self._points], axis=1)
        b = np.stack([p[1] for p in self._points], axis=1)
        worse: Bools = (_rank_chance(a, b) < self._level) & (a.mean(axis=1) > b.mean(axis=1))
        return worse


def _rank_chance(a: Floats, b: Floats) -> Floats:
    """One-sided p-values of the Mann-Whitney U test per row (normal limit, corrected for ties)."""
    k = a.shape[1]
    both = np.concatenate([a, b], axis=1)
    ranks = rankdata(both, axis=1)
    u = ranks[:, :k].sum(axis=1) - k * (k + 1) / 2
    variance = k * ranks.var(axis=1, ddof=1) * k / (2 * k)
    z = (u - k * k / 2 - 0.5) / np.sqrt(np.maximum(variance, 1e-12))
    chance: Floats = np.where(variance > 0, norm.sf(z), 1.0)
    return chance
