"""One supervised process: started, watched, started again after its death."""

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from gateway.supervisor.restart import Restart, after_exit

_PR_SET_PDEATHSIG = 1
_REAP_S = 5.0
_POLL_S = 0.02
# -P keeps the working directory off the module path: a directory called `gateway` there must not be imported.
PROGRAM: Sequence[str] = (sys.executable, "-P", "-m", "gateway.app")


def die_with_parent(parent: int) -> None:
    """Called in a child: SIGTERM when the supervisor dies, also when that happened before this call (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


class _Inherited:
    """A child that an earlier program in this process has started: what subprocess does, for a bare process id."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._status = 0
            else:
                self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout)
            time.sleep(_POLL_S)
        return status


class Child:
    """A place for one process at a time.

    Args:
        name: for logs.
        role: first argument of the program.
        boot: makes the memory file a new process starts from; called once per start.
        inherit: descriptors the process keeps beside that file.
        line: its line in the shared memory.
        environ: variables it gets beside the supervisor's own, which stand where both name one.
    """

    def __init__(
        self,
        name: str,
        role: str,
        boot: Callable[[], int],
        inherit: Sequence[int],
        line: int,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.role = role
        self.line = line
        self.restart = Restart()
        self.start_at = 0.0
        self.started_at = 0.0
        self._boot = boot
        self._inherit = tuple(inherit)
        self._environ = environ
        self._process: subprocess.Popen[bytes] | _Inherited | None = None

    @property
    def running(self) -> bool:
        """Whether a process holds the place and has not been reaped."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process's id, 0 without one."""
        return self._process.pid if self._process else 0

    def start(self, now: float, program: Sequence[str]) -> None:
        """Starts a process; raises OSError when the machine has none to give."""
        fd = self._boot()
        try:
            self._process = subprocess.Popen(
                [*program, self.role, str(fd), str(os.getpid())],
                pass_fds=(fd, *self._inherit),
                stdin=subprocess.DEVNULL,
                env={**self._environ, **os.environ},
                process_group=0,  # Ctrl-C reaches the supervisor alone, which then drains the others
            )
        finally:
            os.close(fd)
        self.started_at = now

    def adopt(self, pid: int, now: float) -> None:
        """Takes over a process that is this one's child already."""
        self._process, self.started_at = _Inherited(pid), now

    def start_now(self, now: float) -> None:
        """The next process starts at once, and nothing is held against it."""
        self.restart, self.start_at = Restart(), now

    def reap(self, now: float) -> int | None:
        """The exit status of a process that has ended, with the next start decided; None while it runs."""
        if self._process is None or (status := self._process.poll()) is None:
            return None
        self._process = None
        self.put_off(now, now - self.started_at)
        return status

    def put_off(self, now: float, lived_s: float) -> None:
        """Decides when the next process starts."""
        self.restart = after_exit(self.restart, lived_s, random.random())
        self.start_at = now + self.restart.delay_s

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if there is one."""
        if self._process:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Reaps a process that was killed."""
        if self._process:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_S)


def describe(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
