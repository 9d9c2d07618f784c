"""Processes that run and do nothing: a loop that is stuck, a process that was stopped."""

import signal

from gateway.boot import Slots
from gateway.config_supervision import Supervision
from gateway.supervisor.child import Child
from gateway.telemetry.logs import logger

_log = logger("supervisor")


class Watch:
    """Looks for signs of life in the memory that processes share with the supervisor."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._warned: set[int] = set()

    def forget(self, child: Child) -> None:
        """Its process has ended."""
        self._warned.discard(child.line)

    def look(self, child: Child, bounds: Supervision, now: float, awake_since: float) -> None:
        """Reports, and in the end kills, a process that gives no sign of life.

        One that has given none yet has the time of a start. Silence before `awake_since` does not count: then the
        supervisor itself had been stopped.
        """
        if not child.running:
            return
        sign = self._slots.read(child.line)[2] / 1e9
        silent, begun = now - max(sign, child.started_at, awake_since), sign >= child.started_at
        if silent > (bounds.kill_s if begun else bounds.start_s):
            _log.error(f"{child.role} hangs and is killed", process=child.name, silent_s=round(silent, 1))
            child.signal(signal.SIGKILL)
        elif begun and silent > bounds.warn_s:
            if child.line not in self._warned:
                _log.warning(f"{child.role} gives no sign of life", process=child.name, silent_s=round(silent, 1))
                self._warned.add(child.line)
        else:
            self._warned.discard(child.line)
