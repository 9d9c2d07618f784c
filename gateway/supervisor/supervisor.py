"""Keeps one controller and N workers running behind listening sockets that never close."""

import os
import select
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from gateway.boot import Boot, ControllerBoot, Slots, SlotState
from gateway.config import Config
from gateway.core.route import Routes
from gateway.errors import ExitCode, ResourceError
from gateway.supervisor import sockets
from gateway.supervisor.child import PROGRAM, Child, describe
from gateway.telemetry.logs import logger

_TICK_S = 0.1
_KILL_MARGIN_S = 2.0  # a worker ends its own drain in time; this is for one that does not
_CONTROLLER_STOP_S = 5.0
_GIVE_UP_AFTER = 3  # deaths of a worker before anything ever served
_log = logger("supervisor")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the supervisor waits for its processes.

    Attributes:
        start_s: until all of them serve for the first time.
        warn_s: a worker without a sign of life for so long is reported.
        kill_s: and after so long it is killed.
    """

    start_s: float = 60.0
    warn_s: float = 5.0
    kill_s: float = 30.0


class Phase(Enum):
    """Where the group is in its life; it only moves forward."""

    STARTING = 1
    SERVING = 2
    DRAINING = 3
    CLOSING = 4


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a group that serves can be reached."""

    data_url: str
    admin_url: str
    workers: int
    pid: int


class Supervisor:
    """Owns the sockets and the processes of one `sluice serve`.

    Args:
        config: settings of the group.
        routes: applied by the controller at its first start; None leaves the stored ones.
        degraded: serve the last published table even if the controller cannot start.
        on_ready: called once when everything serves.
        patience: bounds on waiting.
        program: what a process is started with, before its role.
    """

    def __init__(
        self,
        config: Config,
        *,
        routes: Routes | None = None,
        degraded: bool = False,
        on_ready: Callable[[Ready], None] = lambda _: None,
        patience: Patience | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._config = config
        self._degraded = degraded
        self._on_ready = on_ready
        self._patience = patience or Patience()
        self._program = program
        self._routes = routes
        self._phase = Phase.STARTING
        self._exit_code = ExitCode.OK
        self._stop_at = 0.0
        self._controller_ready = False
        self._warned: set[int] = set()
        self._awake_since = 0.0

    def run(self) -> int:
        """Serves until told to stop; returns the exit code. Raises ResourceError when it cannot listen."""
        state = Path(self._config.state_dir).absolute()
        sockets.ensure_state_dir(state)
        # The controller's directory is its own business, but it must not depend on where this was started.
        self._config = replace(self._config, state_dir=str(state))
        listen, admin = self._config.listen, self._config.admin
        with (
            sockets.listen_tcp(listen.host, listen.port, "--listen or listen.port") as data,
            sockets.listen_tcp(admin.host, admin.port, "--admin or admin.port") as api,
            _runtime() as runtime,
            sockets.listen_unix(runtime / "control.sock") as control,
            _pipe() as (ready_in, ready_out),
            _wakeups() as (wakeup, received),
        ):
            data_url = sockets.url_of(data, "https" if listen.tls else "http")
            admin_url = sockets.url_of(api, "https" if admin.tls else "http")
            self._ready = Ready(data_url, admin_url, self._config.workers, os.getpid())
            self._data = data
            slots_fd = Slots.create()
            self._slots = Slots(slots_fd, self._config.workers)
            table = str(state / "table.msgpack")

            def controller_boot() -> int:
                return ControllerBoot(
                    admin_fd=api.fileno(),
                    control_fd=control.fileno(),
                    slots_fd=slots_fd,
                    ready_fd=ready_out,
                    table_path=table,
                    config=self._config,
                    routes=self._routes,
                ).to_fd()

            def worker_boot(slot: int) -> Callable[[], int]:
                return lambda: Boot(
                    worker=slot,
                    line=slot,
                    incarnation=uuid.uuid4().hex,
                    listen_fd=data.fileno(),
                    slots_fd=slots_fd,
                    control_path=str(runtime / "control.sock"),
                    table_path=table,
                    config=self._config,
                ).to_fd()

            shared = (api.fileno(), control.fileno(), slots_fd, ready_out)
            self._controller = Child("controller", "controller", controller_boot, shared)
            self._workers = [
                Child(f"worker {slot}", "worker", worker_boot(slot), (data.fileno(), slots_fd))
                for slot in range(self._config.workers)
            ]
            try:
                self._loop(wakeup, received, ready_in)
            finally:
                self._kill_all()
                for child in self._children():
                    child.wait()
                self._slots.close()
                os.close(slots_fd)
        return int(self._exit_code)

    def _loop(self, wakeup: socket.socket, received: list[int], ready_in: int) -> None:
        begun = self._awake_since = last = time.monotonic()
        while self._phase is not Phase.CLOSING or self._controller.running:
            select.select([wakeup.fileno(), ready_in], [], [], _TICK_S)
            with suppress(BlockingIOError):
                wakeup.recv(4096)
            now = time.monotonic()
            if now - last > self._patience.warn_s:  # stopped and continued: the silence of the others is ours
                self._awake_since = now
            last = now
            with suppress(BlockingIOError):
                if os.read(ready_in, 16):
                    self._controller_up()
            while received:
                self._on_signal(signal.Signals(received.pop(0)), now)
            self._reap(now)
            match self._phase:
                case Phase.STARTING:
                    self._start_due(now)
                    self._check_started(now, begun)
                case Phase.SERVING:
                    self._start_due(now)
                    self._check_alive(now)
                case _:
                    self._check_stopped(now)

    def _controller_up(self) -> None:
        self._controller_ready = True
        self._routes = None  # applied: a later controller must not undo what was applied since

    def _children(self) -> list[Child]:
        return [self._controller, *self._workers]

    def _start_due(self, now: float) -> None:
        for child in self._children():
            if not child.running and now >= child.start_at:
                try:
                    child.start(now, self._program)
                except OSError as error:
                    child.put_off(now, 0.0)
                    _log.error("process did not start", process=child.name, reason=str(error))

    def _reap(self, now: float) -> None:
        for child in self._children():
            status = child.reap(now)
            if status is None:
                continue
            if child is self._controller:
                self._controller_ready = False
            else:
                slot = self._workers.index(child)
                self._slots.write(slot, 0, SlotState.EMPTY, 0)
                self._warned.discard(slot)
            if self._phase in {Phase.STARTING, Phase.SERVING}:
                _log.error("process ended", process=child.name, how=describe(status), again_in_s=child.restart.delay_s)
            if self._phase is Phase.STARTING:
                self._judge_early_death(child, status, now)

    def _judge_early_death(self, child: Child, status: int, now: float) -> None:
        if child is self._controller:
            if status > 0 and not self._degraded:
                self._stop(now, ExitCode(status) if status in set(ExitCode) else ExitCode.FAILED)
        elif child.restart.failures >= _GIVE_UP_AFTER:
            _log.error("giving up: a worker keeps ending before it serves", process=child.name, how=describe(status))
            self._stop(now, ExitCode.FAILED)

    def _check_started(self, now: float, begun: float) -> None:
        serving = all(self._slots.read(slot)[1] is SlotState.SERVING for slot in range(self._config.workers))
        if serving and (self._controller_ready or self._degraded):
            self._phase = Phase.SERVING
            self._on_ready(self._ready)
        elif now - begun > self._patience.start_s:
            self._stop(now, ExitCode.RESOURCE)
            raise ResourceError(f"not everything served within {self._patience.start_s:g} s; the log above says what")

    def _check_alive(self, now: float) -> None:
        for slot, child in enumerate(self._workers):
            if not child.running:
                continue
            sign = max(self._slots.read(slot)[2] / 1e9, child.started_at, self._awake_since)
            silent = now - sign
            if silent > self._patience.kill_s:
                _log.error("worker hangs and is killed", process=child.name, silent_s=round(silent, 1))
                child.signal(signal.SIGKILL)
            elif silent > self._patience.warn_s:
                if slot not in self._warned:
                    _log.warning("worker gives no sign of life", process=child.name, silent_s=round(silent, 1))
                    self._warned.add(slot)
            else:
                self._warned.discard(slot)

    def _on_signal(self, number: signal.Signals, now: float) -> None:
        if number not in {signal.SIGTERM, signal.SIGINT}:
            return
        if self._phase in {Phase.STARTING, Phase.SERVING}:
            self._stop(now, ExitCode.OK)
        elif number is signal.SIGINT:
            _log.warning("told twice to stop: ending at once")
            self._kill_all()

    def _stop(self, now: float, code: ExitCode) -> None:
        if self._phase in {Phase.DRAINING, Phase.CLOSING}:
            return
        self._phase, self._exit_code = Phase.DRAINING, code
        self._stop_at = now + self._config.limits.drain_s + _KILL_MARGIN_S
        self._data.close()  # once the last worker has closed its own, new connections are refused and not queued
        for child in self._workers:
            child.signal(signal.SIGTERM)

    def _check_stopped(self, now: float) -> None:
        """Workers first, the controller last: it takes in their last reports."""
        if self._phase is Phase.DRAINING:
            if now > self._stop_at:
                for child in self._workers:
                    child.signal(signal.SIGKILL)
            if not any(child.running for child in self._workers):
                self._phase, self._stop_at = Phase.CLOSING, now + _CONTROLLER_STOP_S
                self._controller.signal(signal.SIGTERM)
        elif now > self._stop_at:
            self._controller.signal(signal.SIGKILL)

    def _kill_all(self) -> None:
        for child in self._children():
            child.signal(signal.SIGKILL)


@contextmanager
def _runtime() -> Iterator[Path]:
    path = sockets.runtime_dir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def _wakeups() -> Iterator[tuple[socket.socket, list[int]]]:
    """A socket that becomes readable with each signal, and the signals received so far."""
    received: list[int] = []
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    handlers = {number: signal.signal(number, lambda got, _: received.append(got)) for number in numbers}
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader, received
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()
