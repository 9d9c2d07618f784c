"""Keeps one controller and N workers running behind listening sockets that never close."""

import os
import select
import signal
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path

from gateway.boot import Boot, ControllerBoot, Slots
from gateway.config import Admin, Config, Listen
from gateway.core.route import Routes
from gateway.errors import ExitCode, ResourceError, SluiceError
from gateway.reload import compare
from gateway.supervisor import handover, holdings, sockets
from gateway.supervisor.child import PROGRAM, Child, describe
from gateway.supervisor.controllers import Controllers
from gateway.supervisor.handover import Handover
from gateway.supervisor.holdings import Ready
from gateway.supervisor.notify import Notify
from gateway.supervisor.workers import KILL_MARGIN_S, Workers
from gateway.telemetry import logs
from gateway.telemetry.logs import logger

_TICK_S = 0.1
_CONTROLLER_STOP_S = 5.0
_GIVE_UP_AFTER = 3  # deaths of a worker before anything ever served
_log = logger("supervisor")


class Phase(Enum):
    """Where the group is in its life; it only moves forward."""

    STARTING = 1
    SERVING = 2
    UNREADY = 3  # says so to load balancers, and goes on serving until they have noticed
    DRAINING = 4
    CLOSING = 5


class Supervisor:
    """Owns the sockets and the processes of one `sluice serve`.

    Signals: SIGTERM and SIGINT drain and end; SIGHUP takes in changed settings and files; SIGUSR1 replaces the
    workers one after another; SIGUSR2 replaces all processes, this one included, by what is installed now.

    Args:
        config: settings of the group.
        routes: applied by the controller at its first start; None leaves the stored ones.
        degraded: serve the last published table even if the controller cannot start.
        on_ready: called once when everything serves.
        program: what a process is started with, before its role.
        reread: reads the settings anew, for SIGHUP; raises SluiceError when they are wrong.
        command: what this process was started with, for SIGUSR2; with `--dry-run` it only checks.
    """

    def __init__(
        self,
        config: Config,
        *,
        routes: Routes | None = None,
        degraded: bool = False,
        on_ready: Callable[[Ready], None] = lambda _: None,
        program: Sequence[str] = PROGRAM,
        reread: Callable[[], Config] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self._config = config
        self._degraded = degraded
        self._on_ready = on_ready
        self._program = program
        self._reread = reread
        self._command = tuple(command)
        self._routes = routes
        self._phase = Phase.STARTING
        self._exit_code = ExitCode.OK
        self._stop_at = self._awake_since = 0.0
        self._deferred: list[signal.Signals] = []
        self._announce_roll = False

    def run(self) -> int:
        """Serves until told to stop; returns the exit code. Raises ResourceError when it cannot listen."""
        self._config = _absolute(self._config)
        state = Path(self._config.state_dir)
        sockets.ensure_state_dir(state)
        listen, admin = self._config.listen, self._config.admin
        before = handover.take()
        given = sockets.from_service_manager() if before is None else {}
        self._notify = Notify()
        with ExitStack() as stack:
            self._data = stack.enter_context(holdings.listener("data", listen, given, before))
            self._api = stack.enter_context(holdings.listener("admin", admin, given, before))
            self._runtime = stack.enter_context(holdings.runtime(before))
            self._control = stack.enter_context(holdings.control(self._runtime, before))
            ready_in, self._ready_out = stack.enter_context(holdings.pipe())
            wakeup, self._received = stack.enter_context(holdings.wakeups())
            data_url = sockets.url_of(self._data, "https" if listen.tls else "http")
            admin_url = sockets.url_of(self._api, "https" if admin.tls else "http")
            self._ready = Ready(data_url, admin_url, self._config.workers, os.getpid())
            kept = before if before is not None and before.layout == handover.LAYOUT else None
            self._slots_fd = kept.slots_fd if kept else Slots.create()
            slots = Slots(self._slots_fd, self._config.workers)
            inherit = (self._data.fileno(), self._slots_fd)
            self._table = str(state / "table.msgpack")
            self._workers = Workers(self._config, slots, self._worker_boot, inherit, self._program)
            passed = (self._api.fileno(), self._control.fileno(), self._slots_fd, self._ready_out)
            self._controllers = Controllers(slots, self._controller_boot, passed, self._program)
            if before is not None:
                self._take_over(before, time.monotonic())
            else:
                self._workers.fill()
            try:
                self._loop(wakeup, ready_in)
            finally:
                self._kill_all()
                for child in self._children():
                    child.wait()
                slots.close()
                os.close(self._slots_fd)
        return int(self._exit_code)

    # processes

    def _controller_boot(self) -> int:
        return ControllerBoot(
            admin_fd=self._api.fileno(),
            control_fd=self._control.fileno(),
            slots_fd=self._slots_fd,
            ready_fd=self._ready_out,
            table_path=self._table,
            config=self._config,
            routes=self._routes,
            check=self._check,
        ).to_fd()

    def _worker_boot(self, config: Config, slot: int, line: int) -> int:
        return Boot(
            worker=slot,
            line=line,
            incarnation=uuid.uuid4().hex,
            listen_fd=self._data.fileno(),
            slots_fd=self._slots_fd,
            control_path=str(self._runtime / "control.sock"),
            table_path=self._table,
            config=config,
        ).to_fd()

    @property
    def _check(self) -> tuple[str, ...]:
        """The command that says whether this one would start now."""
        return (*self._command, "--dry-run") if self._command else ()

    def _children(self) -> list[Child]:
        return [*self._controllers.children, *self._workers.children]

    def _take_over(self, before: Handover, now: float) -> None:
        """Goes on with the processes of an earlier program, and replaces them one after another."""
        self._phase = Phase.SERVING
        self._routes = None
        self._workers.adopt(before.workers, before.retiring, now)
        if before.controller:
            self._controllers.adopt(before.controller, now)
        self._roll()
        _log.info("took over from an earlier program", workers=len(before.workers))

    # the loop

    def _loop(self, wakeup: socket.socket, ready_in: int) -> None:
        begun = self._awake_since = last = time.monotonic()
        while self._phase is not Phase.CLOSING or self._controllers.present.running:
            select.select([wakeup.fileno(), ready_in], [], [], _TICK_S)
            with suppress(BlockingIOError):
                wakeup.recv(4096)
            now = time.monotonic()
            if now - last > self._config.supervision.warn_s:  # stopped and continued: the silence of the others is ours
                self._awake_since = now
            last = now
            self._notify.alive(now)
            with suppress(BlockingIOError):
                if os.read(ready_in, 16):
                    self._controller_up()
            for number in holdings.taken(self._received):
                self._on_signal(number, now)
            self._reap(now)
            match self._phase:
                case Phase.STARTING:
                    self._start_due(now)
                    self._check_started(now, begun)
                case Phase.SERVING | Phase.UNREADY:
                    self._start_due(now)
                    self._workers.check_alive(now, self._awake_since)
                    self._controllers.check_alive(self._config.supervision, now, self._awake_since)
                    self._keep_rolling(now)
                    if self._phase is Phase.UNREADY and now >= self._stop_at:
                        self._stop(now, ExitCode.OK)
                case _:
                    self._check_stopped(now)

    def _controller_up(self) -> None:
        self._controllers.ready = True
        self._routes = None  # applied: a later controller must not undo what was applied since

    def _start_due(self, now: float) -> None:
        self._workers.start_due(now)
        self._controllers.start_due(now)

    def _reap(self, now: float) -> None:
        for child, status in self._workers.reap(now):
            self._report_death(child, status)
            if self._phase is Phase.STARTING and child.restart.failures >= _GIVE_UP_AFTER:
                _log.error(
                    "giving up: a worker keeps ending before it serves", process=child.name, how=describe(status)
                )
                self._stop(now, ExitCode.FAILED)
        if (found := self._controllers.reap(now)) is not None:
            self._report_death(self._controllers.present, found)
            if self._phase is Phase.STARTING and found > 0 and not self._degraded:
                self._stop(now, ExitCode(found) if found in set(ExitCode) else ExitCode.FAILED)

    def _report_death(self, child: Child, status: int) -> None:
        if self._phase in {Phase.STARTING, Phase.SERVING, Phase.UNREADY}:
            _log.error("process ended", process=child.name, how=describe(status), again_in_s=child.restart.delay_s)

    def _check_started(self, now: float, begun: float) -> None:
        if self._workers.serving and (self._controllers.ready or self._degraded):
            self._phase = Phase.SERVING
            self._on_ready(self._ready)
            self._say_ready()
        elif now - begun > (start_s := self._config.supervision.start_s):
            self._stop(now, ExitCode.RESOURCE)
            raise ResourceError(f"not everything served within {start_s:g} s; the log above says what")

    # changes

    def _on_signal(self, number: signal.Signals, now: float) -> None:
        serving = self._phase is Phase.SERVING
        if number in {signal.SIGTERM, signal.SIGINT}:
            self._told_to_stop(number, now)
        elif number in {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2} and (serving or self._phase is Phase.STARTING):
            if not serving or self._workers.rolling:
                if number not in self._deferred:
                    self._deferred.append(number)
            elif number is signal.SIGHUP:
                self._reload(now)
            elif number is signal.SIGUSR1:
                self._roll()
            else:
                self._become_next()

    def _told_to_stop(self, number: signal.Signals, now: float) -> None:
        if self._phase is Phase.SERVING and self._config.limits.unready_s > 0:
            self._phase, self._stop_at = Phase.UNREADY, now + self._config.limits.unready_s
            self._notify.stopping()
            self._workers.signal(signal.SIGUSR1)
        elif self._phase in {Phase.STARTING, Phase.SERVING, Phase.UNREADY}:
            self._stop(now, ExitCode.OK)
        elif number is signal.SIGINT:
            _log.warning("told twice to stop: ending at once")
            self._kill_all()

    def _reload(self, now: float) -> None:
        """Takes in sluice.yaml and every file it names, or says why not and changes nothing."""
        if self._reread is None:
            _log.error("settings are not read again: they came from no file")
            return
        self._notify.reloading()
        try:
            new = _absolute(self._reread())
        except SluiceError as error:
            _log.error("settings are refused, the old ones stay", reason=str(error))
        else:
            self._go_over_to(new, now)
        if not self._workers.rolling:
            self._say_ready()

    def _go_over_to(self, new: Config, now: float) -> None:
        found = compare(self._config, new)
        if found.fixed:
            _log.error("settings are refused: these need a restart of the whole gateway", keys=found.fixed)
            return
        self._config = new
        self._workers.take_in(new)
        logs.configure(new.log, process="supervisor")
        _log.info("settings are taken in", changed=found.changed)
        # Certificates, keys and tokens may have changed even where the settings have not.
        self._workers.reread()
        if found.controller:
            self._controllers.replace(now)
        else:
            self._controllers.reread()
        if found.workers:
            self._roll()

    def _roll(self) -> None:
        self._workers.roll(self._config)
        self._announce_roll = True

    def _keep_rolling(self, now: float) -> None:
        self._workers.step(now)
        if self._announce_roll and not self._workers.rolling:
            self._announce_roll = False
            _log.info("all workers are replaced" if self._workers.serving else "not all workers were replaced")
            self._say_ready()
        while self._deferred and self._phase is Phase.SERVING and not self._workers.rolling:
            self._on_signal(self._deferred.pop(0), now)

    def _say_ready(self) -> None:
        self._notify.ready(f"serving with {self._config.workers} workers at {self._ready.data_url}")

    def _become_next(self) -> None:
        """Goes over to the program that is installed now, if that one would start."""
        if not self._command:
            _log.error("not replaced: it is not known what this was started with")
            return
        if reason := handover.would_fail(self._check):
            _log.error("not replaced: the program would not start", reason=reason)
            return
        workers, retiring = self._workers.adoptable()
        left = Handover(
            data=_pair(self._config.listen),
            data_fd=self._data.fileno(),
            admin=_pair(self._config.admin),
            admin_fd=self._api.fileno(),
            control_fd=self._control.fileno(),
            runtime=str(self._runtime),
            slots_fd=self._slots_fd,
            controller=self._controllers.present.pid,
            workers=workers,
            retiring=retiring,
        )
        try:
            handover.pass_on(left, self._command, self._told_to_end)
        except OSError as error:
            _log.error("not replaced", reason=str(error))

    # the end

    def _told_to_end(self) -> bool:
        """Whether such a signal waits to be dealt with."""
        return signal.SIGTERM in self._received or signal.SIGINT in self._received

    def _stop(self, now: float, code: ExitCode) -> None:
        if self._phase in {Phase.DRAINING, Phase.CLOSING}:
            return
        self._phase, self._exit_code = Phase.DRAINING, code
        self._notify.stopping()
        self._stop_at = now + self._config.limits.drain_s + KILL_MARGIN_S
        self._data.close()  # once the last worker has closed its own, new connections are refused and not queued
        self._workers.signal(signal.SIGTERM)

    def _check_stopped(self, now: float) -> None:
        """Workers first, the controller last: it takes in their last reports."""
        if self._phase is Phase.DRAINING:
            if now > self._stop_at:
                self._workers.signal(signal.SIGKILL)
            if not self._workers.running:
                self._phase, self._stop_at = Phase.CLOSING, now + _CONTROLLER_STOP_S
                self._controllers.present.signal(signal.SIGTERM)
        elif now > self._stop_at:
            self._controllers.present.signal(signal.SIGKILL)

    def _kill_all(self) -> None:
        for child in self._children():
            child.signal(signal.SIGKILL)


def _pair(address: Listen | Admin) -> tuple[str, int]:
    return address.host, address.port


def _absolute(config: Config) -> Config:
    """The controller's directory is its own business, but it must not depend on where this was started."""
    return replace(config, state_dir=str(Path(config.state_dir).absolute()))
