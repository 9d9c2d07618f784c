"""The end of a gateway, and the end of service for one backend."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.operations.backend import backend
from tests.operations.serving import Gateway, ready_at, serving, settings, until


def test_told_to_end_it_says_so_first_and_loses_nothing(tmp_path: Path) -> None:
    """Not ready at once, still serving for `unready_s`, then no new connections; what runs is answered, then exit 0."""
    limits = {"drain_s": 10.0, "unready_s": 1.5}
    with (
        backend() as triton,
        serving(tmp_path, settings(tmp_path, triton.url, limits=limits)) as gateway,
        ThreadPoolExecutor(1) as pool,
        gateway.client() as idle,
    ):
        assert idle.get("/v2/health/ready").status_code == 200
        slow = pool.submit(gateway.infer, "echo", {"x-delay-ms": "3000"})
        until(lambda: triton.heads)
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: not ready_at(gateway))
        answer = gateway.infer()  # on a new connection: load balancers have not noticed yet
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        until(lambda: _refused(gateway))
        assert not slow.done()
        answer = slow.result(20)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert gateway.process.wait(20) == 0
        assert "Traceback" not in gateway.log


def test_a_request_that_outlasts_the_grace_is_cut_off(tmp_path: Path) -> None:
    """The process ends in time, whatever a backend does."""
    with (
        backend() as triton,
        serving(tmp_path, settings(tmp_path, triton.url, limits={"drain_s": 0.5})) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), 5) as client,
    ):
        client.sendall(
            b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nx-delay-ms: 30000\r\nContent-Length: 2\r\n\r\n{}"
        )
        until(lambda: triton.heads)
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(20) == 0
        assert time.monotonic() - began < 10
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""


def _refused(gateway: Gateway) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", gateway.port)) != 0


@pytest.fixture
def pair(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A gateway in front of two backends."""
    with (
        backend("one") as one,
        backend("two") as two,
        serving(tmp_path, settings(tmp_path, one.url, two.url)) as gateway,
    ):
        yield gateway, one, two


def test_a_backend_is_drained_by_command(pair) -> None:  # type: ignore[no-untyped-def]
    """What it works on ends, nothing new begins; over a new controller and new settings too; then it comes back."""
    gateway, one, two = pair
    with ThreadPoolExecutor(1) as pool:
        until(lambda: {gateway.infer().json()["backend"] for _ in range(10)} == {"one", "two"})
        running = pool.submit(gateway.infer, "echo", {"x-delay-ms": "1500"})
        until(lambda: any(b"1500" in head for head in one.heads + two.heads))
        holder, other = (one, two) if any(b"1500" in head for head in one.heads) else (two, one)
        dry = gateway.command("drain", holder.url, "--dry-run")
        assert "would be drained" in dry.stdout
        done = gateway.command("drain", holder.url, "--why", "new disk")
        assert (done.returncode, "is drained in pool default" in done.stdout) == (0, True)
        assert {gateway.infer().json()["backend"] for _ in range(10)} == {other.name}
        assert running.result(20).json()["backend"] == holder.name
    states = {row["url"]: row["states"] for row in gateway.api("GET", "/backends").json()}
    assert until(lambda: states[holder.url] == {"drained": 1})
    last = gateway.command("drain", other.url)
    assert last.returncode == 7
    assert "is the last backend in service of pool 'default'" in last.stderr
    assert gateway.command("drain", "http://127.0.0.1:9").returncode == 7
    # Settings that change nothing about it leave it out of service.
    gateway.rewrite(report_interval_s=0.2)
    assert gateway.command("reload").returncode == 0
    until(lambda: gateway.log.count("controller serves") == 2)
    assert {gateway.infer().json()["backend"] for _ in range(10)} == {other.name}
    entry = until(lambda: gateway.api("GET", "/audit").json())
    assert any(row["action"] == "drain" and row["detail"] == f"{holder.url}: new disk" for row in entry)
    assert gateway.command("drain", holder.url, "--undo").returncode == 0
    until(lambda: {gateway.infer().json()["backend"] for _ in range(20)} == {"one", "two"})
