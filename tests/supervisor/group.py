"""Starts a whole group of processes for a test and asks it things."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

_STANDIN = Path(__file__).with_name("standin.py")


@dataclass
class Group:
    """A running supervisor."""

    process: subprocess.Popen[bytes]
    log: Path
    data_url: str = ""
    admin_url: str = ""
    http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=15))

    def get(self, path: str) -> Any:
        """The admin API's answer."""
        answer = self.http.get(f"{self.admin_url}/api/v1{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, routes: dict[str, Any], **params: Any) -> httpx.Response:
        """Applies routes."""
        url = f"{self.admin_url}/api/v1/routes"
        return self.http.put(url, json=routes, params={"verify": False, **params})

    def served(self) -> tuple[int, int, int]:
        """One request: slot and process id of the worker that answered, and the generation it serves."""
        host, port = self.data_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        worker, pid, generation = answer.rpartition(b"\r\n\r\n")[2].split()
        return int(worker), int(pid), int(generation)

    def children(self) -> dict[str, int]:
        """Process ids of the direct children by role."""
        found: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                parent = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    arguments = entry.joinpath("cmdline").read_bytes().split(b"\0")
                    role = next((a.decode() for a in arguments if a in {b"worker", b"controller"}), "")
                    if not role:  # it has not become its program yet, or is no more
                        continue
                    name = role if role not in found else f"{role}{len(found)}"
                    found[name] = int(entry.name)
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals the supervisor and waits for its exit code."""
        self.process.send_signal(number)
        return self.process.wait(40)


def until(condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Polls until a condition holds and returns its value; errors of the network count as not yet."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.HTTPError, OSError, AssertionError):
            if value := condition():
                return value
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def routes(weight: float = 90.0, name: str = "digits") -> dict[str, Any]:
    """A route with two variants."""
    pair = [("a", "1", weight), ("b", "2", 100 - weight)]
    variants = [{"name": n, "model": "digits", "version": v, "weight": w} for n, v, w in pair]
    return {"routes": [{"name": name, "variants": variants}]}


def config(state_dir: Path, **more: Any) -> dict[str, Any]:
    """Settings with free ports."""
    return {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "state_dir": str(state_dir),
        "report_interval_s": 0.1,
        "pools": [{"name": "default", "backends": [{"url": "http://127.0.0.1:1"}]}],
        "limits": {"drain_s": 1.0},
        **more,
    }


@contextlib.contextmanager
def start(settings: dict[str, Any], log: Path, mode: str = "") -> Iterator[Group]:
    """A group of stand-in workers under the real supervisor and controller; killed at the end."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, str(_STANDIN), "serve", msgspec.json.encode(settings).decode()],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "STANDIN": mode},
        )
    try:
        group = Group(process, log)
        yield group
    finally:
        group.http.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def running(settings: dict[str, Any], log: Path, mode: str = "") -> Iterator[Group]:
    """The same, once everything serves."""
    with start(settings, log, mode) as group:
        assert group.process.stdout is not None
        line = group.process.stdout.readline()
        assert line, f"the group did not start:\n{log.read_text()}"
        found = msgspec.json.decode(line)
        group.data_url, group.admin_url = found["data_url"], found["admin_url"]
        yield group
