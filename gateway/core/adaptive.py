"""A concurrency limit that follows latency: Envoy's gradient controller.

Each window gives one p90. It is compared with the p90 without a queue, which is measured anew about once a minute by
letting only a few requests in for a moment. A window slower than that by more than a buffer shrinks the limit in
proportion, a faster one lets it grow by its square root.
Source: Envoy's adaptive concurrency filter, after Netflix's concurrency-limits.
"""

from math import sqrt

_BUFFER = 1.25  # a window may be this many times as slow as one without a queue before the limit shrinks
_QUANTILE = 0.9
_MAX_SAMPLES = 1024
_PROBE_EVERY_S = 60.0
_PROBE_WINDOWS = 3  # the first of them still sees requests that were let in before


class AdaptiveLimit:
    """One route's limit.

    Attributes:
        limit: requests that may be under way now, between `lowest` and `highest`.
    """

    __slots__ = (
        "_best_s",
        "_highest",
        "_lowest",
        "_probe_at",
        "_probing",
        "_resume_at",
        "_samples",
        "_window_ends",
        "_window_s",
        "limit",
    )

    def __init__(self, lowest: int, highest: int, window_s: float) -> None:
        self._lowest = lowest
        self._highest = highest
        self._window_s = window_s
        self._window_ends = 0.0
        self._best_s = 0.0
        self._samples: list[float] = []
        self._probe_at = 0.0  # the next measurement without a queue; the first answer begins one
        self._probing = 0
        self._resume_at = highest
        self.limit = highest

    def observe(self, latency_s: float, in_flight: int, now: float) -> bool:
        """Takes in one good answer; True when a window ended with it and the limit was renewed.

        Args:
            latency_s: how long it took.
            in_flight: requests under way when it ended, itself included.
            now: any steady clock, in seconds.
        """
        if len(self._samples) < _MAX_SAMPLES:
            self._samples.append(latency_s)
        if now < self._window_ends:
            return False
        self._window_ends = now + self._window_s
        samples, self._samples = sorted(self._samples), []
        p90 = samples[min(int(len(samples) * _QUANTILE), len(samples) - 1)]
        if self._probing:
            self._probing -= 1
            if self._probing < _PROBE_WINDOWS - 1:
                self._best_s = min(p90, self._best_s or p90)
            if not self._probing:
                self.limit = self._resume_at
                self._probe_at = now + _PROBE_EVERY_S
        elif now >= self._probe_at:
            self._probing, self._best_s = _PROBE_WINDOWS, 0.0
            self._resume_at, self.limit = self.limit, self._lowest
        else:
            self._adjust(p90, in_flight)
        return True

    def _adjust(self, p90: float, in_flight: int) -> None:
        self._best_s = min(p90, self._best_s)
        gradient = max(0.5, min(1.0, self._best_s * _BUFFER / p90)) if p90 > 0 else 1.0
        # A limit that is not used says nothing about latency: it must not grow while nobody comes near it.
        room = sqrt(self.limit) if in_flight * 2 >= self.limit else 0.0
        self.limit = int(max(self._lowest, min(self._highest, gradient * self.limit + room)))
