"""Runs `sluice` commands the way a user would: as processes, told apart only by their arguments and their JSON."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.errors import SluiceError, UnreachableError
from gateway.localtriton import child

_SLUICE = (sys.executable, "-P", "-c", "from gateway.cli import main; main()")
_POLL_S = 0.05
_LINES = 12


class CommandError(SluiceError):
    """A command failed; the text has its status, its last lines and where its log is."""

    def __init__(self, name: str, status: int, text: str, log: Path) -> None:
        super().__init__(f"`sluice {name}` ended with status {status}:\n{text}\nits log: {log}")


class Deadline:
    """A point in time that every wait respects."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._seconds = seconds

    def left(self, what: str) -> float:
        """Seconds until then; raises UnreachableError, naming what was waited for, when it has passed."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise UnreachableError(f"not done within {self._seconds:g} s: {what}")
        return left


def run(arguments: Sequence[str], *, log: Path, deadline: Deadline) -> Any:
    """Run a command to its end and return the JSON that it printed.

    Args:
        arguments: those of `sluice`, with whatever makes it print JSON.
        log: gets its standard error.
        deadline: it is stopped when that has passed.

    Raises:
        CommandError: it failed.
        UnreachableError: the deadline has passed.
    """
    name = arguments[0]
    printed = log.with_suffix(".out")
    process = _spawn(arguments, printed, log, death_signal=signal.SIGTERM)
    try:
        while process.poll() is None:
            deadline.left(f"sluice {name}")
            time.sleep(_POLL_S)
    finally:
        child.end(process, grace_s=5)
    if process.returncode != 0:
        raise CommandError(name, process.returncode, _tail(log), log)
    return json.loads(printed.read_text())


class Service:
    """A command that prints one JSON line once it serves, and then goes on.

    Args:
        arguments: those of `sluice`, with whatever makes it print JSON.
        log: gets its standard error.
        detached: it lives on when this process ends.
    """

    def __init__(self, arguments: Sequence[str], *, log: Path, detached: bool) -> None:
        self._name = arguments[0]
        self._log = log
        self._printed = log.with_suffix(".out")
        self._process = _spawn(arguments, self._printed, log, None if detached else signal.SIGTERM)

    @property
    def pid(self) -> int:
        """Its process id; SIGTERM ends it."""
        return self._process.pid

    def ready(self, deadline: Deadline) -> Any:
        """Wait for its line and return what it says.

        Raises:
            CommandError: it ended instead.
            UnreachableError: the deadline has passed.
        """
        while True:
            line, complete, _ = self._printed.read_text().partition("\n")
            if complete:
                return json.loads(line)
            status = self._process.poll()
            if status is not None:
                raise CommandError(self._name, status, _tail(self._log), self._log)
            deadline.left(f"sluice {self._name}")
            time.sleep(_POLL_S)

    def stop(self) -> bool:
        """End it and all that it started; return whether it ended by itself when asked."""
        return child.end(self._process, grace_s=30)


def _spawn(
    arguments: Sequence[str], printed: Path, log: Path, death_signal: signal.Signals | None
) -> subprocess.Popen[bytes]:
    with printed.open("wb") as output, log.open("wb") as errors:
        return child.spawn(
            [*_SLUICE, *arguments],
            output=output,
            errors=errors,
            env=os.environ,
            death_signal=death_signal,
        )


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LINES:]) or "it printed nothing"
