"""What systemd is told, and the sockets that it holds for the gateway."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from tests.operations.backend import backend
from tests.operations.serving import CLEAN, INFER, SLUICE, serving, settings, until


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        self._said: list[str] = []

    def said(self, word: str) -> bool:
        """Whether a message with that line has come; messages before it are forgotten then."""
        while True:
            try:
                self._said += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                break
        if word not in self._said:
            return False
        del self._said[: self._said.index(word) + 1]
        return True

    def close(self) -> None:
        """Ends it."""
        self._socket.close()


@contextmanager
def manager(path: Path) -> Iterator[Manager]:
    """A service manager that listens."""
    made = Manager(path)
    try:
        yield made
    finally:
        made.close()


def test_it_hears_of_every_change(tmp_path: Path) -> None:
    """Ready, signs of life, reloading with its time, ready again, also after a new program; and the end."""
    with backend() as triton, manager(tmp_path / "notify") as hears:
        environment = {"NOTIFY_SOCKET": hears.address, "WATCHDOG_USEC": "4000000"}
        with serving(tmp_path, settings(tmp_path, triton.url), **environment) as gateway:
            until(lambda: hears.said("READY=1"))
            until(lambda: hears.said("WATCHDOG=1"))
            gateway.process.send_signal(signal.SIGHUP)
            until(lambda: hears.said("RELOADING=1"))
            until(lambda: hears.said("READY=1"))
            gateway.process.send_signal(signal.SIGUSR2)
            until(lambda: "took over" in gateway.log)
            until(lambda: hears.said("READY=1"))
            until(lambda: hears.said("WATCHDOG=1"))
            gateway.process.send_signal(signal.SIGTERM)
            until(lambda: hears.said("STOPPING=1"))
            assert gateway.process.wait(20) == 0


def test_sockets_of_the_manager_outlive_the_gateway(tmp_path: Path) -> None:
    """A connection made while no gateway runs is served by the next one (LISTEN_FDS)."""
    with backend() as triton, socket.socket() as data, socket.socket() as admin:
        for listener in (data, admin):
            listener.bind(("127.0.0.1", 0))
            listener.listen(16)
            listener.set_inheritable(True)
        (tmp_path / "sluice.yaml").write_text(yaml.safe_dump(settings(tmp_path, triton.url)))
        routes = {"routes": [{"name": "echo", "variants": [{"name": "v1", "model": "m", "weight": 100}]}]}
        (tmp_path / "routes.yaml").write_text(yaml.safe_dump(routes))
        url = f"http://127.0.0.1:{data.getsockname()[1]}"

        for _ in range(2):
            with (
                socket.create_connection(data.getsockname(), 30) as waiting,
                _activated(tmp_path, data, admin) as process,
            ):
                waiting.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")
                until(lambda: httpx.post(url + INFER.format("echo"), content=b"{}", trust_env=False).status_code == 200)
                served = f"http://127.0.0.1:{admin.getsockname()[1]}/healthz"
                until(lambda served=served: httpx.get(served, trust_env=False).text == "ok\n")
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0


@contextmanager
def _activated(folder: Path, data: socket.socket, admin: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway started as systemd does it: sockets from descriptor 3 on, the process id in the environment."""
    script = (
        f"exec 3<&{data.fileno()} 4<&{admin.fileno()}; export LISTEN_PID=$$; exec {SLUICE} serve --routes routes.yaml"
    )
    environment = {**CLEAN, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "data:admin"}
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            ["/bin/bash", "-c", script],
            cwd=folder,
            env=environment,
            pass_fds=(data.fileno(), admin.fileno()),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
