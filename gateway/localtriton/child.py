"""Child processes that do not outlive the program that started them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

_POLL_S = 0.02
# A program that ties itself to its parent and then becomes the one that is wanted. Done between fork and exec, as
# subprocess's preexec_fn, it would run handlers of whatever libraries are loaded around the fork, and a signal that
# arrives meanwhile, such as the SIGTERM that should end us, is lost in them.
_TIE = """
import ctypes, os, sys
number, parent, *argv = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)  # PR_SET_PDEATHSIG of linux/prctl.h
if os.getppid() != int(parent):  # it died before prctl: then no signal will ever come
    sys.exit(1)
try:
    os.execvp(argv[0], argv)
except OSError as error:
    sys.exit(f"cannot run {argv[0]}: {error.strerror}")
"""


def spawn(
    argv: Sequence[str | Path],
    *,
    output: BinaryIO | int,
    env: Mapping[str, str],
    death_signal: signal.Signals | None,
    errors: BinaryIO | int = subprocess.STDOUT,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, tied to the calling thread's life.

    The kernel sends `death_signal` to the child when the thread that called this ends, however it ends
    (prctl(2), PR_SET_PDEATHSIG): call it from a thread that lives as long as the child is wanted.

    Args:
        argv: program and arguments.
        output: where standard output goes.
        env: the child's whole environment.
        death_signal: what the child gets when its parent dies; None lets it live on.
        errors: where standard error goes; with the output unless said otherwise.
    """
    tied: list[str | Path] = []
    if death_signal is not None:
        tied = [sys.executable, "-I", "-S", "-c", _TIE, str(int(death_signal)), str(os.getpid())]
    return subprocess.Popen(
        [str(arg) for arg in (*tied, *argv)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        env=dict(env),
        start_new_session=True,
    )


def _signal_group(pgid: int, number: int) -> bool:
    """Signal every process of the group; False when none is left."""
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    return True


def end(process: subprocess.Popen[bytes], *, grace_s: float, kill_s: float = 5.0) -> bool:
    """Ask the child to end, then kill what is left of its group; return whether it ended by itself.

    Args:
        process: a child started by `spawn`, so that its process id is its group's id.
        grace_s: how long it may take after SIGTERM.
        kill_s: how long the group may take to vanish after SIGKILL.
    """
    graceful = True
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            graceful = False
    deadline = time.monotonic() + kill_s
    while _signal_group(process.pid, signal.SIGKILL) and time.monotonic() < deadline:
        process.poll()
        time.sleep(_POLL_S)
    process.wait(kill_s)
    return graceful
