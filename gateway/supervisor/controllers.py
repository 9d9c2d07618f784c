"""The controller's process: kept running, watched, and replaced by one that begins when the other has ended."""

import signal
from collections.abc import Callable, Sequence

from gateway.boot import Slots
from gateway.config_supervision import Supervision
from gateway.supervisor.child import Child
from gateway.supervisor.watch import Watch
from gateway.telemetry.logs import logger

_END_S = 15.0  # its own end is bounded by less
_log = logger("supervisor")


class Controllers:
    """The present controller and the one before it: only one may hold the store.

    Args:
        make_boot: makes the memory file that a controller starts from; called once per start.
        inherit: descriptors that it keeps.
        program: what a process is started with, before its role.

    Attributes:
        ready: the present one serves.
    """

    def __init__(self, slots: Slots, make_boot: Callable[[], int], inherit: Sequence[int], program: Sequence[str]):
        self._make_boot = make_boot
        self._inherit = inherit
        self._program = program
        self._watch = Watch(slots)
        self.present = self._place("controller")
        self._before = self._place("old controller")
        self._kill_before_at = 0.0
        self.ready = False

    def _place(self, name: str) -> Child:
        return Child(name, "controller", self._make_boot, self._inherit, Slots.CONTROLLER)

    @property
    def children(self) -> list[Child]:
        """Both."""
        return [self.present, self._before]

    def start_due(self, now: float) -> None:
        """Starts one where one should run and none does."""
        child = self.present
        if not child.running and now >= child.start_at:
            try:
                child.start(now, self._program)
            except OSError as error:
                child.put_off(now, 0.0)
                _log.error("process did not start", process=child.name, reason=str(error))

    def adopt(self, pid: int, now: float) -> None:
        """Takes over the controller of an earlier program, and ends it: its successor starts when it has ended."""
        self.present.adopt(pid, now)
        self.replace(now)

    def replace(self, now: float) -> None:
        """Ends the present one and starts another with the settings as they are by then."""
        if self._before.running:  # it is still ending, so the present one has not begun
            return
        self._before, self.present = self.present, self._place("controller")
        self._before.name = "old controller"
        self._before.signal(signal.SIGTERM)
        self._kill_before_at = now + _END_S
        self.present.start_at = float("inf") if self._before.running else now

    def reread(self) -> None:
        """Has one that serves read its files anew; another one is about to."""
        if self.ready:
            self.present.signal(signal.SIGHUP)

    def reap(self, now: float) -> int | None:
        """Takes in ends; the exit status of a present one that should have lived."""
        if self._before.running and now > self._kill_before_at:
            self._before.signal(signal.SIGKILL)
        if self._before.reap(now) is not None:
            self.present.start_now(now)
        found = self.present.reap(now)
        if found is not None:
            self.ready = False
            self._watch.forget(self.present)
        return found

    def check_alive(self, bounds: Supervision, now: float, awake_since: float) -> None:
        """Reports and in the end kills one that gives no sign of life."""
        self._watch.look(self.present, bounds, now, awake_since)
