"""What goes wrong with the store is the controller's affair: requests are served all the same."""

import contextlib
import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operations.backend import backend
from tests.operations.serving import Gateway, route, serving, settings, until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that has served."""
    folder = tmp_path_factory.mktemp("store")
    with backend() as triton, serving(folder, settings(folder, triton.url), [route("echo")]) as found:
        yield found


def apply(gateway: Gateway, timeout_s: float) -> tuple[int, str]:
    """Publishes a change; the status and the text of the answer."""
    routes = {"routes": [route("echo", timeout_s=timeout_s)]}
    answer = gateway.api("PUT", "/routes", params={"verify": False}, json=routes)
    return answer.status_code, answer.text


@contextlib.contextmanager
def asking(gateway: Gateway) -> Iterator[list[int]]:
    """The statuses of requests made all the while."""
    seen: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.append(gateway.infer().status_code)
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(20)


def test_a_locked_store_refuses_changes_alone(gateway: Gateway) -> None:
    """Somebody holds it for longer than is waited: 503 and what to do; then changes pass again."""
    path = gateway.folder / "state" / "state.db"
    with asking(gateway) as seen:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            status, text = apply(gateway, 11.0)
            assert status == 503
            assert "is locked by another program; end it" in json.loads(text)["error"]
            done = gateway.command("get", "routes")
            assert done.returncode == 0, done.stderr
            other.execute("ROLLBACK")
        status, text = apply(gateway, 12.0)
        assert status == 200, text
    assert set(seen) == {200}
    assert len(seen) > 20


def test_a_corrupt_store_refuses_changes_alone(gateway: Gateway) -> None:
    """The same with a damaged file: the error says which and how to go on; workers that start anew serve, too."""
    folder = gateway.folder / "state"
    good = {path: path.read_bytes() for path in folder.glob("state.db*")}
    with asking(gateway) as seen:
        for path, data in good.items():
            path.write_bytes(b"\xa5" * len(data))
        status, text = apply(gateway, 13.0)
        assert status == 503, text
        assert "state.db" in text
        assert "is corrupt" in text or "failed" in text or "locked" in text
    assert set(seen) == {200}
    assert gateway.infer().status_code == 200


def test_a_full_disk_refuses_changes_alone(tmp_path: Path) -> None:
    """A state directory without room: 503 that says so, and requests go on."""
    state = tmp_path / "state"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", str(state)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with backend() as triton, serving(tmp_path, settings(tmp_path, triton.url), [route("echo")]) as gateway:
            with contextlib.suppress(OSError), (state / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 4096)
            until(lambda: _refused_for_room(gateway))
            assert gateway.infer().status_code == 200
            (state / "filler").unlink()
            until(lambda: apply(gateway, 99.0)[0] == 200)
    finally:
        subprocess.run(["umount", "-l", str(state)], check=False)


_COUNT = iter(range(10, 10_000))


def _refused_for_room(gateway: Gateway) -> bool:
    status, text = apply(gateway, float(next(_COUNT)))
    return status == 503 and "the disk is full" in text
