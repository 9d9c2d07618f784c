"""One load-generating process: its share of the plan, its clock, and its users' loops."""

import random
import time
from typing import Final

import gevent
from gevent.event import Event
from locust.contrib.fasthttp import FastHttpSession

from loadtest.arrivals import intended_times
from loadtest.driver.sender import Sender
from loadtest.ledger import Ledger
from loadtest.plan import Arm, Plan

# How often a closed user looks whether its turn has come, and the watcher whether all users are done.
_LOOK_S: Final = 0.05
# After its end an open run may still send what is overdue for this long; the rest counts as unsent.
BACKLOG_S: Final = 1.0


class Generator:
    """The part of a plan that worker `index` of `workers` carries. Times are seconds since `go`."""

    def __init__(self, plan: Plan, *, index: int, workers: int) -> None:
        self.ledger = Ledger(plan.slice_s)
        self._plan, self._curve = plan, plan.curve
        self._slicing = plan.slicing
        self._index, self._workers = index, workers
        self._rng = random.Random(plan.seed * 1_000_003 + index)
        self._sender = Sender(plan, self.ledger, self._rng)
        self._started = Event()
        self._enlisted = self._driving = 0
        self._origin = self._cpu_origin = 0.0
        self._due = intended_times(
            self._curve, share=1 / workers, spacing=plan.spacing, seed=plan.seed * 1_000_003 + index
        )

    def go(self) -> None:
        """Start the clock and the sending."""
        self._origin, self._cpu_origin = time.perf_counter(), time.process_time()
        self._started.set()

    def now(self) -> float:
        """Seconds since `go`."""
        return time.perf_counter() - self._origin

    def cpu_share(self) -> float:
        """CPU time over elapsed time since `go`: near 1 means that this process limits the load."""
        return (time.process_time() - self._cpu_origin) / max(self.now(), 1e-9)

    def wait_until_done(self) -> None:
        """Return when the run is over and every user has its last answer."""
        self._started.wait()
        gevent.sleep(max(0.0, self._curve.duration_s - self.now()))
        deadline = self._curve.duration_s + BACKLOG_S + self._plan.timeout_s + 1
        while self._driving and self.now() < deadline:
            gevent.sleep(_LOOK_S)

    def drive(self, client: FastHttpSession) -> None:
        """Send as one user until the run is over."""
        number = self._enlisted * self._workers + self._index
        self._enlisted += 1
        self._driving += 1
        try:
            self._started.wait()
            if self._plan.arrivals == "open":
                self._open_loop(client)
            else:
                self._closed_loop(client, number)
        finally:
            self._driving -= 1

    def _closed_loop(self, client: FastHttpSession, number: int) -> None:
        duration, think = self._curve.duration_s, self._plan.think_s
        while (t := self.now()) < duration:
            if number >= round(self._curve.level_at(t)):
                gevent.sleep(_LOOK_S)
                continue
            clock = self._origin + t
            self._sender.send(client, self._sender.pick(), self._arm(t), at_s=t, due_clock=clock)
            if think:
                gevent.sleep(self._rng.expovariate(1 / think))

    def _open_loop(self, client: FastHttpSession) -> None:
        for due in self._due:
            request, arm = self._sender.pick(), self._arm(due)
            wait = due - self.now()
            if wait > 0:
                gevent.sleep(wait)
                self.ledger.late(due, arm.name, request.name, self.now() - due)
            elif self.now() > self._curve.duration_s + BACKLOG_S:
                self.ledger.failure(due, arm.name, request.name, "", kind="unsent")
                continue
            self._sender.send(client, request, arm, at_s=due, due_clock=self._origin + due)

    def _arm(self, t: float) -> Arm:
        return self._plan.arms[self._slicing.arm_of(self._slicing.index_at(t))]
