"""The worker processes of a group: kept running, watched, replaced one after another without a gap."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from gateway.boot import Slots, SlotState
from gateway.config import Config
from gateway.supervisor.child import Child, describe
from gateway.supervisor.watch import Watch
from gateway.telemetry.logs import logger

# glibc gives freed memory back to the kernel and takes it again for the next long body that is kept for a copy or a
# retry; on a virtual machine the page faults of one body cost more than serving it. Up to this much is kept instead.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(32 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
KILL_MARGIN_S = 2.0  # a worker ends its own drain in time; this is for one that does not
_log = logger("supervisor")
# Makes the memory file that a worker starts from: its settings, slot and line.
MakeBoot = Callable[[Config, int, int], int]


class Workers:
    """One process per slot, and those that have been replaced and drain.

    Args:
        config: settings of the first processes.
        slots: the memory they share with the supervisor.
        make_boot: called once per start of a process.
        inherit: descriptors every worker keeps.
        program: what a process is started with, before its role.
    """

    def __init__(
        self,
        config: Config,
        slots: Slots,
        make_boot: MakeBoot,
        inherit: Sequence[int],
        program: Sequence[str],
    ) -> None:
        self._config = config
        self._slots = slots
        self._make_boot = make_boot
        self._inherit = inherit
        self._program = program
        self._places: list[Child] = []
        self._retiring: list[tuple[Child, float]] = []
        self._waiting: deque[int] = deque()
        self._fresh: tuple[int, Child, float] | None = None
        self._watch = Watch(slots)

    def fill(self) -> None:
        """Makes a place for every worker the settings want."""
        while len(self._places) < self._config.workers:
            self._places.append(self._place(len(self._places)))

    def adopt(self, workers: Iterable[tuple[int, int, int]], retiring: Iterable[tuple[int, int]], now: float) -> None:
        """Takes over processes of an earlier program: (slot, line, pid), and (line, pid) of those that drain."""
        for slot, line, pid in sorted(workers):
            child = self._place(slot, line)
            child.adopt(pid, now)
            self._places.append(child)
        for line, pid in retiring:
            child = self._place(-1, line)
            child.adopt(pid, now)
            self._retiring.append((child, now + self._grace_s))

    def adoptable(self) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
        """What `adopt` takes."""
        running = [(slot, child.line, child.pid) for slot, child in enumerate(self._places) if child.running]
        return running, [(child.line, child.pid) for child, _ in self._retiring if child.running]

    @property
    def children(self) -> list[Child]:
        """All of them, the draining ones and one that is about to take over included."""
        fresh = [self._fresh[1]] if self._fresh else []
        return [*self._places, *fresh, *(child for child, _ in self._retiring)]

    @property
    def running(self) -> bool:
        """Whether any process is left."""
        return any(child.running for child in self.children)

    @property
    def rolling(self) -> bool:
        """Whether processes are being replaced."""
        return self._fresh is not None or bool(self._waiting)

    @property
    def serving(self) -> bool:
        """Whether every slot serves."""
        return all(self._serves(child) for child in self._places)

    def signal(self, number: signal.Signals) -> None:
        """Signals all processes."""
        for child in self.children:
            child.signal(number)

    def reread(self) -> None:
        """Has the processes that serve read their files anew; the others are about to."""
        for child in self.children:
            if self._serves(child):
                child.signal(signal.SIGHUP)

    def start_due(self, now: float) -> None:
        """Starts what should run and does not."""
        for child in self._places:
            if not child.running and now >= child.start_at:
                self._start(child, now)

    def reap(self, now: float) -> list[tuple[Child, int]]:
        """Takes in deaths; returns those of processes that should have lived."""
        dead = []
        for child in self.children:
            status = child.reap(now)
            if status is None:
                continue
            self._slots.write(child.line, 0, SlotState.EMPTY, 0)
            self._watch.forget(child)
            if child in self._places:
                dead.append((child, status))
            elif self._fresh and child is self._fresh[1]:
                self._give_up(f"the new process ended: {describe(status)}")
        self._retiring = [(child, kill_at) for child, kill_at in self._retiring if child.running]
        return dead

    def check_alive(self, now: float, awake_since: float) -> None:
        """Reports and in the end kills processes that give no sign of life."""
        for child in self._places:
            self._watch.look(child, self._config.supervision, now, awake_since)

    def take_in(self, config: Config) -> None:
        """Settings that ask nothing of running processes; the next ones start with them."""
        self._config = config

    def roll(self, config: Config) -> None:
        """Begins to replace every process by one with these settings; `step` does the rest.

        A process begins to drain when its successor serves, so there are never fewer than before.
        """
        self._config = config
        for slot, child in enumerate(self._places):
            if not child.running:  # it starts with the new settings by itself, when its pause is over
                self._places[slot] = self._place(slot)
                self._places[slot].restart, self._places[slot].start_at = child.restart, child.start_at
        self.fill()
        self._waiting = deque(slot for slot, child in enumerate(self._places) if child.running)

    def step(self, now: float) -> None:
        """Goes on with replacing, and ends processes that drain for too long."""
        for child, kill_at in self._retiring:
            if now > kill_at:
                child.signal(signal.SIGKILL)
        if self._fresh is not None:
            slot, child, until = self._fresh
            if self._serves(child):
                self._fresh = None
                self._retire(self._places[slot], now)
                self._places[slot] = child
            elif now > until:
                child.signal(signal.SIGKILL)
                self._retiring.append((child, now))
                self._give_up(f"the new process did not serve within {self._config.supervision.start_s:g} s")
        elif self._waiting:
            slot = self._waiting.popleft()
            if slot < self._config.workers:
                child = self._place(slot)
                self._fresh = slot, child, now + self._config.supervision.start_s
                if not self._start(child, now):
                    self._give_up("the new process did not start")
            elif slot == len(self._places) - 1:
                self._retire(self._places.pop(), now)
            else:
                self._waiting.append(slot)  # the last places go first

    def _retire(self, child: Child, now: float) -> None:
        child.signal(signal.SIGUSR2)
        if child.running:
            self._retiring.append((child, now + self._grace_s))

    def _give_up(self, why: str) -> None:
        slot = self._fresh[0] if self._fresh else 0
        self._fresh = None
        self._waiting.clear()
        _log.error("workers are not replaced any further; the remaining ones go on as they are", slot=slot, reason=why)

    @property
    def _grace_s(self) -> float:
        return self._config.limits.drain_s + KILL_MARGIN_S

    def _serves(self, child: Child) -> bool:
        return child.running and self._slots.read(child.line)[1] is SlotState.SERVING

    def _place(self, slot: int, line: int = -1) -> Child:
        taken = {child.line for child in self.children}
        at = line if line >= 0 else next(i for i in range(Slots.CONTROLLER) if i not in taken)
        config = self._config
        return Child(f"worker {slot}", "worker", lambda: self._make_boot(config, slot, at), self._inherit, at, _MALLOC)

    def _start(self, child: Child, now: float) -> bool:
        self._slots.write(child.line, 0, SlotState.STARTING, 0)
        try:
            child.start(now, self._program)
        except OSError as error:
            child.put_off(now, 0.0)
            _log.error("process did not start", process=child.name, reason=str(error))
            return False
        return True
