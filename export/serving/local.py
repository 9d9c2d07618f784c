"""A Triton of our own for the length of a check, through the command that `sluice` itself offers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from export.errors import ExportError

START_S = 120.0
STOP_S = 30.0
_MISSING_REQUISITE = 4


class UnavailableError(ExportError):
    """This machine cannot run a Triton; the message says what it lacks."""


@contextlib.contextmanager
def serve(repository: Path, log: Path) -> Iterator[str]:
    """Yield the HTTP address of a Triton that has loaded everything in `repository`; stopped at the end.

    UnavailableError when there is no way to start one here; ExportError with Triton's own reason when it starts and
    then refuses the repository.
    """
    command = [_command(), "triton", "--repository", str(repository), "--log-file", str(log), "-o", "json"]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--exit-timeout", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killer = threading.Timer(START_S, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        killer.cancel()
        if not line:
            _, message = process.communicate(timeout=STOP_S)
            reason = " ".join(message.split())[-400:] or f"exit code {process.returncode}"
            raise (UnavailableError if process.returncode == _MISSING_REQUISITE else ExportError)(reason)
        yield json.loads(line)["http"]
    finally:
        killer.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _command() -> str:
    beside = Path(sys.executable).with_name("sluice")
    found = str(beside) if beside.exists() else shutil.which("sluice")
    if found is None:
        raise UnavailableError("the command `sluice` is not on PATH")
    if importlib.util.find_spec("pytriton") is None:
        raise UnavailableError("the package nvidia-pytriton, which carries Triton, is not installed")
    return found
