"""From one program of the supervisor to the next in the same process: sockets, memory and children stay.

The new program keeps the process id, so the children are its own, the service manager sees no change, and no socket
is closed for an instant. What it needs to know lies in a memory file whose descriptor an environment variable names.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence

import msgspec

_CHECK_S = 20.0
_VARIABLE = "SLUICE_HANDOVER"
# Raised with every change of what the memory shared with workers looks like.
LAYOUT = 1
HANDLED = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2},
)


class Handover(msgspec.Struct, kw_only=True):
    """Everything that survives.

    Attributes:
        layout: of the shared memory; a program that knows another one makes its own memory.
        data, admin: configured addresses of the two listening sockets, which `data_fd` and `admin_fd` are.
        control_fd: listening Unix socket inside `runtime`, the group's runtime directory.
        slots_fd: memory file of `Slots`.
        controller: its process id, 0 without one.
        workers: slot, line and process id of each.
        retiring: line and process id of those that drain.
    """

    layout: int = LAYOUT
    data: tuple[str, int]
    data_fd: int
    admin: tuple[str, int]
    admin_fd: int
    control_fd: int
    runtime: str
    slots_fd: int
    controller: int
    workers: list[tuple[int, int, int]]
    retiring: list[tuple[int, int]]


def take() -> Handover | None:
    """What an earlier program left, if there was one; its descriptors are no longer inherited by children."""
    text = os.environ.pop(_VARIABLE, "")
    if not text:
        return None
    with os.fdopen(int(text), "rb") as file:
        left = msgspec.msgpack.decode(file.read(), type=Handover)
    for fd in _descriptors(left):
        os.set_inheritable(fd, False)
    return left


def pass_on(left: Handover, command: Sequence[str], given_up: Callable[[], bool]) -> None:
    """Becomes the next program; returns only if `given_up`, or by OSError when there is no such program."""
    fd = os.memfd_create("sluice-handover", 0)
    os.write(fd, msgspec.msgpack.encode(left))
    os.lseek(fd, 0, os.SEEK_SET)
    passed = [fd, *_descriptors(left)]
    for descriptor in passed:
        os.set_inheritable(descriptor, True)
    # A signal between two programs would find nobody: it waits until the next one has its handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        if not given_up():  # asked for the last time before signals wait
            os.execve(command[0], list(command), {**os.environ, _VARIABLE: str(fd)})  # noqa: S606 - a program, no shell
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        for descriptor in passed[1:]:
            os.set_inheritable(descriptor, False)
        os.close(fd)


def would_fail(check: Sequence[str]) -> str:
    """Runs the command that checks whether the next program would start; the reason why it would not, or nothing."""
    try:
        tried = subprocess.run(
            check, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CHECK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return tried.stderr[-2000:].strip() or f"exit code {tried.returncode}" if tried.returncode else ""


def _descriptors(left: Handover) -> tuple[int, ...]:
    return left.data_fd, left.admin_fd, left.control_fd, left.slots_fd
