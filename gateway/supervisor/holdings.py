"""What a supervisor holds while it runs: sockets and a directory, its own or an earlier program's, and its alarm."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Admin, Listen
from gateway.supervisor import sockets
from gateway.supervisor.handover import HANDLED, Handover


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a group that serves can be reached."""

    data_url: str
    admin_url: str
    workers: int
    pid: int


def listener(
    name: str, address: Listen | Admin, given: dict[str, socket.socket], before: Handover | None
) -> socket.socket:
    """A listening socket: the earlier program's, the service manager's, or a new one."""
    if before is not None:
        configured, fd = (before.data, before.data_fd) if name == "data" else (before.admin, before.admin_fd)
        listener = socket.socket(fileno=fd)
        if configured == (address.host, address.port):
            return listener
        listener.close()
    if name in given:
        return given[name]
    option = "--listen or listen.port" if name == "data" else "--admin or admin.port"
    return sockets.listen_tcp(address.host, address.port, option)


def control(runtime: Path, before: Handover | None) -> socket.socket:
    """The Unix socket that workers reach the controller by."""
    return socket.socket(fileno=before.control_fd) if before else sockets.listen_unix(runtime / "control.sock")


@contextmanager
def runtime(before: Handover | None) -> Iterator[Path]:
    """The directory of run-time files, removed at the end."""
    path = Path(before.runtime) if before else sockets.runtime_dir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe: to read and to write."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def wakeups() -> Iterator[tuple[socket.socket, list[int]]]:
    """A socket that becomes readable with each signal, and the signals received so far."""
    received: list[int] = []
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    handlers = {number: signal.signal(number, lambda got, _: received.append(got)) for number in HANDLED}
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)  # an earlier program may have held them back
    try:
        yield reader, received
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def taken(received: list[int]) -> list[signal.Signals]:
    """Takes what has come since, in order; the same order given a hundred times is one."""
    numbers: list[signal.Signals] = []
    while received:
        number = signal.Signals(received.pop(0))
        if number not in numbers:
            numbers.append(number)
    return numbers
