"""Whether a backend may take requests: active probes and passive observations as one table-driven state.

States: UP takes requests; DOWN failed its probes; EJECTED was taken out by observations and returns by itself.
A probe's word on DOWN/UP and an observation's ejection are independent: a backend is available when neither holds.
"""

from dataclasses import dataclass

from gateway.core.pool import Ejection, Probe


@dataclass(slots=True)
class Health:
    """One backend's health.

    Attributes:
        up: last word of the probes (True until they say otherwise, when probing is off).
        streak: consecutive probe results that contradict `up`.
        failures: consecutive failed requests.
        ejections: how often it was ejected; decays by one for each ejection time spent well.
        ejected_until: end of the present ejection, in the caller's clock; 0 when there is none.
    """

    up: bool
    streak: int = 0
    failures: int = 0
    ejections: int = 0
    ejected_until: float = 0.0

    def available(self, now: float) -> bool:
        """Whether it may take requests."""
        return self.up and now >= self.ejected_until

    def state(self, now: float) -> str:
        """up, down or ejected."""
        return "ejected" if now < self.ejected_until else "up" if self.up else "down"

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

    def observed(self, success: bool) -> None:
        """Takes in one request's outcome; a client's own errors (4xx) and 501 count as success."""
        self.failures = 0 if success else self.failures + 1

    def should_eject(self, ejection: Ejection) -> bool:
        """Whether the failures in a row reach the bound."""
        return 0 < ejection.consecutive <= self.failures

    def eject(self, now: float, ejection: Ejection, random01: float) -> float:
        """Takes it out for `base_s` times the number of ejections, jittered by +-20 %; returns the end."""
        if now > self.ejected_until + ejection.max_s:
            self.ejections = 0
        self.ejections += 1
        self.failures = 0
        duration = min(ejection.base_s * self.ejections, ejection.max_s) * (0.8 + 0.4 * random01)
        self.ejected_until = now + duration
        return self.ejected_until


def may_eject(pool_size: int, already_out: int, max_percent: float) -> bool:
    """Whether one more backend of a pool may go out: at least one always may, unless it is the only one."""
    return pool_size > 1 and (already_out == 0 or (already_out + 1) * 100 <= pool_size * max_percent)


def panics(pool_size: int, available: int, panic_percent: float) -> bool:
    """Whether so few are available that all are used: a wrong health picture must not end the service."""
    return available * 100 < pool_size * panic_percent
