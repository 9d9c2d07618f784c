"""Whether a backend may take requests: the word of active probes, and a breaker that passive observations move.

Both are independent: a backend is available when the last probes were good and the breaker does not hold it back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from gateway.core.pool import Ejection, Probe


class Breaker(Enum):
    """What a backend's observations say."""

    CLOSED = auto()  # takes requests
    OPEN = auto()  # ejected: takes none
    HALF_OPEN = auto()  # takes one at a time, until one of them has told


class Event(Enum):
    """What moves a breaker."""

    SUCCESS = auto()  # a request to it was answered; a client's own errors (4xx) and 501 count as such
    FAILURE = auto()  # one failed
    TRIP = auto()  # so many failed in a row that it goes out, and it may
    ELAPSED = auto()  # the ejection is over


_C, _O, _H = Breaker.CLOSED, Breaker.OPEN, Breaker.HALF_OPEN
NEXT: Final[Mapping[tuple[Breaker, Event], Breaker]] = MappingProxyType(
    {
        (_C, Event.SUCCESS): _C, (_C, Event.FAILURE): _C, (_C, Event.TRIP): _O, (_C, Event.ELAPSED): _C,
        (_O, Event.SUCCESS): _O, (_O, Event.FAILURE): _O, (_O, Event.TRIP): _O, (_O, Event.ELAPSED): _H,
        (_H, Event.SUCCESS): _C, (_H, Event.FAILURE): _H, (_H, Event.TRIP): _O, (_H, Event.ELAPSED): _H,
    }
)  # fmt: skip


@dataclass(slots=True)
class Health:
    """One backend's health.

    Attributes:
        up: last word of the probes (True until they say otherwise, when probing is off).
        breaker: where the observations have brought it.
        streak: consecutive probe results that contradict `up`.
        failures: consecutive failed requests, not counting those that were under way when it was ejected.
        ejections: how often it was ejected; forgotten after a quiet time longer than the longest ejection.
        ejected_until: end of the last ejection, in the caller's clock; 0 when there was none.
    """

    up: bool
    breaker: Breaker = Breaker.CLOSED
    streak: int = 0
    failures: int = 0
    ejections: int = 0
    ejected_until: float = 0.0

    def available(self, now: float) -> bool:
        """Whether it may take requests."""
        return self.up and not self._ejected(now)

    def state(self, now: float) -> str:
        """up, down or ejected."""
        return "ejected" if self._ejected(now) else "up" if self.up else "down"

    def _ejected(self, now: float) -> bool:
        return self.breaker is Breaker.OPEN and now < self.ejected_until

    def probed(self, success: bool, probe: Probe) -> bool:
        """Takes in one probe's result; True when `up` changed by it."""
        if success is self.up:
            self.streak = 0
            return False
        self.streak += 1
        if self.streak < (probe.healthy_after if success else probe.unhealthy_after):
            return False
        self.up, self.streak, self.failures = success, 0, 0
        return True

    @property
    def settled(self) -> bool:
        """Whether a success would change nothing."""
        return not self.failures and self.breaker is _C  # asked for every request: looking a member up costs more

    def observed(self, success: bool) -> bool:
        """Takes in one request's outcome; True when that closed the breaker.

        An ejected backend is beyond both: what was sent before it went says nothing that was not known, and must not
        lengthen its absence.
        """
        before = self.breaker
        if before is Breaker.OPEN:
            return False
        self.failures = 0 if success else self.failures + 1
        self.breaker = NEXT[before, Event.SUCCESS if success else Event.FAILURE]
        return self.breaker is not before

    def should_eject(self, ejection: Ejection) -> bool:
        """Whether the failures in a row reach the bound; one does when the backend has yet to show that it is well."""
        bound = 1 if self.breaker is Breaker.HALF_OPEN else ejection.consecutive
        return self.breaker is not Breaker.OPEN and ejection.consecutive > 0 and bound <= self.failures

    def eject(self, now: float, ejection: Ejection, random01: float) -> float:
        """Takes it out for `base_s` times the number of ejections, jittered by +-20 %; returns the end."""
        if now > self.ejected_until + ejection.max_s:
            self.ejections = 0
        self.ejections += 1
        self.failures = 0
        self.breaker = NEXT[self.breaker, Event.TRIP]
        duration = min(ejection.base_s * self.ejections, ejection.max_s) * (0.8 + 0.4 * random01)
        self.ejected_until = now + duration
        return self.ejected_until

    def elapsed(self, now: float) -> None:
        """Lets an ejection end that is over."""
        if now >= self.ejected_until:
            self.breaker = NEXT[self.breaker, Event.ELAPSED]


def may_eject(pool_size: int, already_out: int, max_percent: float) -> bool:
    """Whether one more backend of a pool may go out: at least one always may, unless it is the only one."""
    return pool_size > 1 and (already_out == 0 or (already_out + 1) * 100 <= pool_size * max_percent)


def panics(pool_size: int, available: int, panic_percent: float) -> bool:
    """Whether so few are available that all are used: a wrong health picture must not end the service."""
    return available * 100 < pool_size * panic_percent
