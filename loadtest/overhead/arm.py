"""A proxy as an arm of the benchmark: its files, its command, started on a CPU of its own."""

import http.client
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtest.errors import BrokenRunError
from loadtest.overhead import wrk
from loadtest.overhead.stub import free_port

_START_S: Final = 60.0
_STOP_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to run an arm.

    `files` and `command` are templates in which {port}, {backend} (the stub's port), {stuck} (the port of a backend
    that never answers) and {folder} are filled in.
    """

    name: str
    command: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    """An arm that answers. `pid` is the root of its processes, None for the stub itself."""

    name: str
    port: int
    pid: int | None


@contextmanager
def started(recipe: Recipe, *, backend: int, folder: Path, cpu: Sequence[str]) -> Iterator[Running]:
    """Run an arm until it answers an inference with 200 and its one slot for `wrk.refused` is taken; end it afterwards.

    Raises:
        BrokenRunError: it ended or did not answer in time; the message has the end of its output.
    """
    home = folder / recipe.name.replace(" ", "-")
    home.mkdir()
    port = free_port()
    stuck = socket.create_server(("127.0.0.1", 0))  # the kernel takes connections and requests, nobody answers
    values = {"port": port, "backend": backend, "stuck": stuck.getsockname()[1], "folder": home}

    def fill(text: str) -> str:
        for key, value in values.items():
            text = text.replace("{" + key + "}", str(value))
        return text

    for name, text in recipe.files.items():
        (home / name).write_text(fill(text))
    log = home / "output.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [*cpu, *map(fill, recipe.command)], cwd=home, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    try:
        _await_answer(port, child, lambda: log.read_text(errors="replace")[-1500:], recipe.name)
        with socket.create_connection(("127.0.0.1", port)) as taker:
            taker.sendall(wrk.plain(wrk.refused()))
            yield Running(recipe.name, port, child.pid)
    finally:
        stuck.close()
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _await_answer(port: int, child: "subprocess.Popen[bytes]", output: Callable[[], str], name: str) -> None:
    payload = wrk.small()
    deadline = time.monotonic() + _START_S
    last = "nothing"
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise BrokenRunError(f"{name} ended with status {child.returncode}:\n{output()}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", payload.path, payload.json, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            last = f"status {answer.status} {answer.read()[:200]!r}"
            if answer.status == http.client.OK:
                return
        except OSError as e:
            last = str(e)
        finally:
            connection.close()
        time.sleep(0.1)
    raise BrokenRunError(f"{name} does not answer ({last}):\n{output()}")
