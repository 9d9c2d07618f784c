"""What Locust loads: one user class, one shape, and the wiring of events and messages.

`sluice loadtest` starts Locust on this file in a process of its own, because gevent patches the interpreter it runs in.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust import FastHttpUser, LoadTestShape, events, task
from locust.event import EventHook
from locust.runners import MasterRunner, WorkerRunner

from loadtest.driver import messages
from loadtest.driver.conductor import Conductor, write_outcome, write_progress
from loadtest.driver.generator import Generator
from loadtest.plan import Plan

_REPORT_EVERY_S = 1.0


class _Process:
    """What this process is doing: generating, conducting, or (in a run with one process) both."""

    runner: Any = None
    generator: Generator | None = None
    conductor: Conductor | None = None
    plan: Plan | None = None


class TritonUser(FastHttpUser):
    """A client with one connection of its own, as a tritonclient has."""

    concurrency = 1

    @task
    def infer(self) -> None:
        """The whole run of this user; afterwards it waits to be stopped."""
        assert _Process.generator is not None
        _Process.generator.drive(self.client)
        while True:
            gevent.sleep(_REPORT_EVERY_S)


class PlannedShape(LoadTestShape):
    """Starts all users at once and ends the test when every worker has reported.

    The level over time is kept by the users themselves: Locust changes it once a second at best, and only in steps
    that the master has to send out.
    """

    def tick(self) -> tuple[int, float] | None:
        """Users and spawn rate for Locust, or None to end the test."""
        conductor, plan = _Process.conductor, _Process.plan
        assert plan is not None
        if conductor is not None:
            progress = conductor.progress()
            descriptor = os.environ.get(messages.PROGRESS_VARIABLE)
            if progress and descriptor:
                write_progress(int(descriptor), progress)
            if conductor.over(silent=_silent_workers()):
                write_outcome(Path(os.environ[messages.OUTCOME_VARIABLE]), conductor.outcome())
                return None
        return plan.users, plan.users


def _silent_workers() -> int:
    return len(_Process.runner.clients.missing) if isinstance(_Process.runner, MasterRunner) else 0


def _on_init(runner: Any, **_: Any) -> None:
    _Process.runner = runner
    runner.register_message(messages.PLAN_MESSAGE, _on_plan)
    runner.register_message(messages.GO_MESSAGE, _on_go)
    runner.register_message(messages.CELLS_MESSAGE, _on_cells)
    if not isinstance(runner, WorkerRunner):
        encoded = Path(os.environ[messages.PLAN_VARIABLE]).read_bytes()
        _Process.plan = msgspec.msgpack.decode(encoded, type=Plan)


def _on_test_start(**_: Any) -> None:
    runner, plan = _Process.runner, _Process.plan
    if plan is None or _Process.conductor is not None:
        return
    workers = max(1, runner.worker_count)
    _Process.conductor = Conductor(plan, workers=workers, clock=time.monotonic)
    runner.send_message(messages.PLAN_MESSAGE, {"plan": msgspec.msgpack.encode(plan), "workers": workers})


def _on_spawning_complete(**_: Any) -> None:
    if _Process.conductor is not None:
        _Process.conductor.begin()
        _Process.runner.send_message(messages.GO_MESSAGE, {})


def _on_plan(msg: Any, **_: Any) -> None:
    plan = msgspec.msgpack.decode(msg.data["plan"], type=Plan)
    TritonUser.network_timeout = TritonUser.connection_timeout = plan.timeout_s
    generator = Generator(plan, index=_Process.runner.worker_index, workers=msg.data["workers"])
    _Process.generator = generator
    gevent.spawn(_report, generator, _Process.runner)


def _on_go(**_: Any) -> None:
    if _Process.generator is not None:
        _Process.generator.go()


def _on_cells(msg: Any, **_: Any) -> None:
    if _Process.conductor is not None:
        _Process.conductor.add(msgspec.msgpack.decode(msg.data["report"], type=messages.Report))


def _report(generator: Generator, runner: Any) -> None:
    done = gevent.spawn(generator.wait_until_done)
    while not done.ready():
        done.join(timeout=_REPORT_EVERY_S)
        report = messages.Report(
            index=runner.worker_index,
            cells=generator.ledger.take(),
            cpu_share=generator.cpu_share(),
            last=done.ready(),
        )
        runner.send_message(messages.CELLS_MESSAGE, {"report": msgspec.msgpack.encode(report)})


_LISTENERS: dict[EventHook, Callable[..., None]] = {
    events.init: _on_init,
    events.test_start: _on_test_start,
    events.spawning_complete: _on_spawning_complete,
}
for _hook, _listener in _LISTENERS.items():
    _hook.add_listener(_listener)  # type: ignore[no-untyped-call]
