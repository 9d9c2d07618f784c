"""Triton, the gateway and their commands, as processes: benchmarks use them as any user does."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from loadtest.errors import BrokenRunError, MissingToolError

_START_S: Final = 60.0
# Models may be large, and some are compiled when they are loaded.
_TRITON_START_S: Final = 600.0
_STOP_S: Final = 60.0


def sluice() -> str:
    """The command, beside this Python or on PATH.

    Raises:
        MissingToolError: it is not installed.
    """
    beside = Path(sys.executable).with_name("sluice")
    found = str(beside) if beside.exists() else shutil.which("sluice")
    if found is None:
        raise MissingToolError("the command `sluice` is not on PATH: pip install the sluice distribution")
    return found


def call(*arguments: str, log: Path, timeout_s: float, fine: Sequence[int] = (0,)) -> int:
    """Runs a `sluice` command to its end and returns its exit code.

    Raises:
        BrokenRunError: another code than those that are fine, or no end in time; the message has the last lines.
    """
    with log.open("wb") as sink:
        try:
            code = subprocess.run(
                [sluice(), *arguments], stdout=sink, stderr=subprocess.STDOUT, check=False, timeout=timeout_s
            ).returncode
        except subprocess.TimeoutExpired:
            raise BrokenRunError(f"sluice {' '.join(arguments[:2])} took more than {timeout_s:.0f} s") from None
    if code not in fine:
        raise BrokenRunError(f"sluice {' '.join(arguments)} ended with {code}:\n{_tail(log)}")
    return code


@contextlib.contextmanager
def triton(repository: Path, model: str | None, log: Path) -> Iterator[str]:
    """A Triton with one model, or with all of the repository; yields its URL."""
    arguments = ["triton", "--repository", str(repository), "--log-file", str(log)]
    arguments += ["--load", model] if model else []
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "-o", "json"]
    with running([*arguments, *ports], log.with_suffix(".err"), start_s=_TRITON_START_S) as (_, ready):
        yield str(ready["http"])


@contextlib.contextmanager
def gateway(folder: Path, triton_url: str, routes: dict[str, Any], workers: int) -> Iterator[str]:
    """A gateway with so many workers in front of a Triton; yields its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "workers": workers,
        "state_dir": str(folder / "state"),
        "log": {"level": "warning"},
        "pools": [{"name": "default", "backends": [{"url": triton_url}]}],
    }
    (folder / "sluice.yaml").write_text(yaml.safe_dump(config))
    (folder / "routes.yaml").write_text(yaml.safe_dump(routes))
    files = ["--config", str(folder / "sluice.yaml"), "--routes", str(folder / "routes.yaml")]
    with running(["serve", *files, "-o", "json"], folder / "gateway.log") as (_, ready):
        yield str(ready["data_url"])


@contextlib.contextmanager
def running(
    arguments: Sequence[str], log: Path, *, cwd: Path | None = None, start_s: float = _START_S
) -> Iterator[tuple["subprocess.Popen[bytes]", dict[str, Any]]]:
    """A `sluice` command that stays, and what it says when it is ready; ended by SIGTERM with the block.

    Raises:
        BrokenRunError: it ended or said nothing in time; the message has the end of its log.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sluice(), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sink, cwd=cwd
        )
    try:
        try:
            ready: dict[str, Any] = json.loads(first_line(process, f"sluice {arguments[0]}", start_s))
        except BrokenRunError as error:
            raise BrokenRunError(f"{error}:\n{_tail(log)}") from None
        yield process, ready
    finally:
        end(process)


def first_line(process: "subprocess.Popen[bytes]", what: str, within_s: float = _START_S) -> str:
    """What a process prints when it is ready.

    Raises:
        BrokenRunError: it ended or printed nothing in time.
    """
    assert process.stdout is not None
    until = time.monotonic() + within_s
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(until - time.monotonic(), 0))
        piece = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not piece:
            raise BrokenRunError(f"{what} did not start within {within_s:g} s (exit status {process.poll()})")
        line += piece
    return line.decode()


def end(process: "subprocess.Popen[bytes]") -> None:
    """Tells a process to end, waits until it is gone, and kills it where it does not go."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # the gateway's children end with it
            process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:]) if log.exists() else ""
