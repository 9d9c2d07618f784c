"""How far bad outcomes of one second share a cause, learnt from the data, never assumed away.

Assignment is independent, so two bad outcomes of one second fall on different arms with chance 2 s (1 - s), unless
they share a cause that sits on one side: a failed batch, a hiccup of one arm. The fewer mixed pairs are seen, the
larger the correlation rho, and a second's bad outcomes count for fewer: the variance is multiplied by 1 + rho (m - 1),
m being the size-weighted mean number per second. rho is 1 until mixed pairs show otherwise, so that at first a whole
second counts as one outcome: the geometric mean of e-values is an e-value however they depend on each other. What past
seconds taught sets the weight of the next one; such weights, at most 1, keep the test exact where outcomes are
independent.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

CAUTION = 1.0
"""Standard errors by which the share of mixed pairs is taken below its estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispersion:
    """Pairs of bad outcomes within seconds; floats, or arrays over simulated rollouts.

    Attributes:
        total: bad outcomes.
        pairs: sum of n (n - 1) over seconds with n bad outcomes.
        mixed: sum of 2 x (n - x): pairs on different arms.
        expected: what `mixed` would be on average if outcomes were independent.
        seconds: number of seconds with a mixed pair.
        stage_bad: bad outcomes on the candidate since the shares last changed.
        stage_total: bad outcomes since then.
    """

    total: Any = 0.0
    pairs: Any = 0.0
    mixed: Any = 0.0
    expected: Any = 0.0
    seconds: Any = 0.0
    stage_bad: Any = 0.0
    stage_total: Any = 0.0

    def rho(self) -> Any:
        """A cautious (high) estimate of the correlation, within [0, 1]."""
        sure = 1.0 - CAUTION / np.sqrt(np.maximum(self.seconds, CAUTION**2))
        return np.clip(1.0 - sure * self.mixed / np.maximum(self.expected, 1e-12), 0.0, 1.0)

    def weight(self, n: Any) -> Any:
        """What each of the next second's n bad outcomes counts, in (0, 1]."""
        size = (self.pairs + n * np.maximum(n - 1.0, 0.0)) / np.maximum(self.total + n, 1e-12)
        return 1.0 / (1.0 + self.rho() * size)

    def after(self, x: Any, n: Any, share: float) -> "Dispersion":
        """With one more second: x of n bad outcomes on the candidate at its share."""
        pairs = n * np.maximum(n - 1.0, 0.0)
        mixed = 2.0 * x * (n - x) * (n > 1)
        # Chance ups of the candidate also make mixed pairs: expecting as many as its own part of the bad outcomes
        # explains keeps them from passing as independence.
        bad, total = self.stage_bad + x, self.stage_total + n
        part = np.maximum((bad + share) / (total + 1.0), share)
        return Dispersion(
            total=self.total + n,
            pairs=self.pairs + pairs,
            mixed=self.mixed + mixed,
            expected=self.expected + 2.0 * part * (1.0 - part) * pairs,
            seconds=self.seconds + (mixed > 0),
            stage_bad=bad,
            stage_total=total,
        )

    def next_stage(self) -> "Dispersion":
        """What stays true when the shares change."""
        return replace(self, stage_bad=0.0 * self.stage_bad, stage_total=0.0 * self.stage_total)
