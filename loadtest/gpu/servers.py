"""Triton, the gateway and their commands, as processes: this package uses them as any user does."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from loadtest.errors import BrokenRunError, MissingToolError

_STOP_S = 60


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
def triton(repository: Path, model: str, log: Path) -> Iterator[str]:
    """A Triton with one model; yields its URL."""
    arguments = ["triton", "--repository", str(repository), "--load", model, "--log-file", str(log)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "-o", "json"]
    with _running([*arguments, *ports], log.with_suffix(".err")) as ready:
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
    with _running(["serve", *files, "-o", "json"], folder / "gateway.log") as ready:
        yield str(ready["data_url"])


@contextlib.contextmanager
def _running(arguments: Sequence[str], log: Path) -> Iterator[dict[str, Any]]:
    with log.open("wb") as sink:
        process = subprocess.Popen([sluice(), *arguments], stdout=subprocess.PIPE, stderr=sink)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise BrokenRunError(f"sluice {arguments[0]} did not start:\n{_tail(log)}")
        ready: dict[str, Any] = json.loads(line)
        yield ready
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:]) if log.exists() else ""
