"""When a process that died starts again: at once the first time, then ever later, never in step with others."""

from dataclasses import dataclass

_BASE_S = 0.1
_MAX_S = 10.0
_STEADY_S = 30.0


@dataclass(frozen=True, slots=True)
class Restart:
    """The failures in a row of one process and the pause before its next start."""

    failures: int = 0
    delay_s: float = 0.0


def after_exit(previous: Restart, lived_s: float, chance: float) -> Restart:
    """Decides the next start; `chance` in [0, 1) jitters the pause by +-50 %.

    A process that lived for half a minute has proven itself: its next death counts as the first.
    """
    failures = 1 if lived_s >= _STEADY_S else previous.failures + 1
    pause = min(_BASE_S * 2 ** min(failures - 2, 20), _MAX_S) if failures > 1 else 0.0
    return Restart(failures, pause * (0.5 + chance))
