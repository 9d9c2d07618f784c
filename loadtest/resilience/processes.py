"""The processes of a figure: backends, crowds of clients and real Tritons, each ended when its figure ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest import servers
from loadtest.errors import BrokenRunError
from loadtest.resilience.ask import fetch
from loadtest.resilience.backend import Mode

_STOP_S: Final = 30.0
_MODEL: Final = Path(__file__).with_name("triton_model.py")
_MODEL_CONFIG: Final = """\
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1, 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1, 4 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


@dataclass(frozen=True, slots=True)
class Backend:
    """A scripted backend that runs."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def become(self, mode: Mode) -> None:
        """From the next inference on."""
        fetch(f"{self.url}/control/{mode}", "POST")

    def signal(self, number: signal.Signals) -> None:
        """Stops or continues the process."""
        os.kill(self.pid, number)


@contextmanager
def backend(
    *, name: str = "backend", slots: int = 1, service_ms: float = 0.0, mode: Mode = Mode.SERVE
) -> Iterator[Backend]:
    """A scripted backend: `slots` inferences at once, each for `service_ms`; with 0 it answers at once."""
    options = ["--name", name, "--slots", str(slots), "--service-ms", str(service_ms), "--mode", mode.value]
    with child("backend", *options) as process:
        yield Backend(int(servers.first_line(process, "the scripted backend")), process.pid)


@contextmanager
def child(module: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A module of this package as a process that ends with its standard input; it is waited for."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"loadtest.resilience.{module}", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@dataclass(slots=True)
class Triton:
    """A real Triton that serves the model `m`."""

    url: str
    grpc_port: int
    pid: int
    process: "subprocess.Popen[bytes]"


def repository(folder: Path) -> Path:
    """A model repository with one small model that answers after some milliseconds."""
    root = folder / "repository"
    version = root / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(_MODEL.read_text(encoding="utf-8"), encoding="utf-8")
    (root / "m" / "config.pbtxt").write_text(_MODEL_CONFIG, encoding="utf-8")
    return root


def slow_version(folder: Path, seconds: float) -> None:
    """Adds version 2 of `m`, which takes so long to load; what runs already does not load it by itself."""
    version = folder / "repository" / "m" / "2"
    version.mkdir()
    slow = f"\n    def initialize(self, args: dict[str, str]) -> None:\n        time.sleep({seconds!r})\n"
    (version / "model.py").write_text(_MODEL.read_text(encoding="utf-8") + slow, encoding="utf-8")


@contextmanager
def tritons(folder: Path, count: int) -> Iterator[list[Triton]]:
    """Several real Tritons with one repository; those that were killed and replaced in the list end as well."""
    running: list[Triton] = []
    root = repository(folder)
    try:
        begun = [_begin_triton(folder, root, 0, i) for i in range(count)]
        try:
            running += [_ready_triton(process, f"Triton {i}") for i, process in enumerate(begun)]
        finally:
            for process in begun[len(running) :]:
                servers.end(process)
        yield running
    finally:
        for triton in running:
            servers.end(triton.process)


def triton_again(folder: Path, dead: Triton) -> Triton:
    """Another Triton at the address of one that has died."""
    dead.process.wait(_STOP_S)
    servers.end(dead.process)
    port = int(dead.url.rpartition(":")[2])
    return _ready_triton(_begin_triton(folder, folder / "repository", port, port), "Triton, again")


def _begin_triton(folder: Path, root: Path, port: int, number: int) -> "subprocess.Popen[bytes]":
    ports = ["--http-port", str(port), "--grpc-port", "0", "--metrics-port", "0"]
    options = [*ports, "--exit-timeout", "1", "--log-file", str(folder / f"triton-{number}.log"), "-o", "json"]
    return subprocess.Popen(
        [servers.sluice(), "triton", "-r", str(root), *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip


def _ready_triton(process: "subprocess.Popen[bytes]", what: str) -> Triton:
    facts: dict[str, Any] = json.loads(servers.first_line(process, what))
    return Triton(facts["http"], int(facts["grpc"].rpartition(":")[2]), facts["pid"], process)


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Looks again and again.

    Raises:
        BrokenRunError: it did not come true in time.
    """
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise BrokenRunError(f"not within {within_s:g} s: {what}")
        time.sleep(0.1)
