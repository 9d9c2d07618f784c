"""Handing the controller's place on, with real processes and a clock of the test's own."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.boot import Slots
from gateway.supervisor.controllers import Controllers
from tests.supervisor.group import until

_DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
_WILLING = "import signal; signal.pause()"


@pytest.fixture
def slots() -> Iterator[Slots]:
    """The shared memory."""
    fd = Slots.create()
    memory = Slots(fd, 1)
    yield memory
    memory.close()
    os.close(fd)


def _boot() -> int:
    return os.memfd_create("boot", 0)


def _end(controllers: Controllers) -> None:
    for child in controllers.children:
        child.signal(signal.SIGKILL)
        child.wait()


@pytest.mark.parametrize("code", [_DEAF, _WILLING], ids=["ignores SIGTERM", "ends"])
def test_the_successor_starts_when_the_other_has_ended(slots: Slots, code: str) -> None:
    """Two never run at once; one that does not end is killed after its time, and not before."""
    deaf = code is _DEAF
    controllers = Controllers(slots, _boot, (), (sys.executable, "-c", code))
    try:
        controllers.start_due(0.0)
        first = controllers.present.pid
        until(lambda: _ignores(first) is deaf)
        controllers.replace(1.0)
        controllers.start_due(1.0)
        assert not controllers.present.running
        if deaf:
            controllers.replace(2.0)  # asked again meanwhile: there is still one who has to end
            assert controllers.reap(15.9) is None
            assert Path(f"/proc/{first}").exists()
        until(lambda: controllers.reap(16.1) is None and not Path(f"/proc/{first}").exists())
        controllers.start_due(16.2)
        assert controllers.present.running
        assert controllers.present.pid != first
    finally:
        _end(controllers)


def _ignores(pid: int) -> bool:
    """Whether a process ignores SIGTERM."""
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("SigIgn:"))
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
