"""A gateway that is changed under load: new settings, new workers, a new program, and no request the worse for it."""

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.operations.backend import Backend, backend
from tests.operations.serving import INFER, Gateway, route, serving, settings, until


@dataclass
class Load:
    """Clients that never stop asking: two keep their connections, one opens a new one each time."""

    port: int
    pause_s: float = 0.005
    served: int = 0
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(keep,)) for keep in (True, True, False)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, keep: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
                connection.request("POST", INFER.format("echo"), b"{}")
                answer = connection.getresponse()
                answer.read()
                self.served += 1
                if answer.status != 200:
                    self.wrong.append(f"status {answer.status}")
                if not keep or answer.getheader("connection") == "close":
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                connection = None
            time.sleep(self.pause_s)
        if connection is not None:
            connection.close()


@pytest.fixture(scope="module")
def triton() -> Iterator[Backend]:
    """What answers."""
    with backend() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(triton: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One worker, so that nobody else could help out while it is replaced."""
    folder = tmp_path_factory.mktemp("restart")
    with serving(folder, settings(folder, triton.url, workers=1), [route("echo")]) as found:
        yield found


def pids(gateway: Gateway) -> list[int]:
    """The workers' process ids, one per slot."""
    return [row["pid"] for row in gateway.api("GET", "/workers").json() if row["connected"]]


def replaced(gateway: Gateway, before: list[int], count: int) -> bool:
    """Whether as many workers serve as should, none of them an earlier one."""
    now = pids(gateway)
    return len(now) == count and not set(now) & set(before)


def test_workers_are_replaced_without_an_error(gateway: Gateway) -> None:
    """Three times in a row while requests flow: none is refused, reset or lost."""
    with Load(gateway.port) as load:
        for _ in range(3):
            before = pids(gateway)
            gateway.process.send_signal(signal.SIGUSR1)
            until(lambda before=before: replaced(gateway, before, 1))
        served = load.served
        until(lambda: load.served > served + 50)
    assert load.wrong == []
    assert sum(row["starts"] for row in gateway.api("GET", "/workers").json()) == 4
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))


def test_settings_are_taken_in_without_an_error(gateway: Gateway, triton: Backend) -> None:
    """More workers, another limit, another backend: all live, in one `sluice reload`; then back."""
    with backend("two") as two, Load(gateway.port) as load:
        pool = {"name": "default", "backends": [{"url": two.url}], "probe": {"interval_s": 0.1}}
        gateway.rewrite(workers=2, limits={"drain_s": 5.0, "max_body_bytes": 1000}, pools=[pool])
        done = gateway.command("reload", "--why", "moved")
        assert done.returncode == 0, done.stderr
        assert "workers, pools, limits" in done.stdout
        until(lambda: len(pids(gateway)) == 2 and gateway.infer().json()["backend"] == "two")
        assert gateway.infer(body=b"x" * 2000).status_code == 413
        assert gateway.api("GET", "/audit").json()[0]["action"] in {"reload", "config"}
        gateway.rewrite(workers=1, limits={"drain_s": 5.0}, pools=[pool | {"backends": [{"url": triton.url}]}])
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: len(pids(gateway)) == 1 and gateway.infer().json()["backend"] == "one")
        assert gateway.infer(body=b"x" * 2000).status_code == 200
    assert load.wrong == []


def test_a_hundred_reloads_a_second_are_borne(gateway: Gateway) -> None:
    """With nothing changed: no process is replaced, no request goes wrong, and the last one counts."""
    before, taken_in = pids(gateway), gateway.log.count("settings are taken in")
    with Load(gateway.port) as load:
        until_then = time.monotonic() + 1.0
        while time.monotonic() < until_then:
            gateway.process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        until(lambda: gateway.log.count("settings are taken in") > taken_in)
        served = load.served
        until(lambda: load.served > served + 50)
    assert load.wrong == []
    assert pids(gateway) == before


def test_wrong_settings_change_nothing(gateway: Gateway) -> None:
    """They are named with their line, by the command and by SIGHUP alike; what cannot change live is refused."""
    before = pids(gateway)
    good = (gateway.folder / "sluice.yaml").read_text()
    gateway.rewrite(workers=0)
    done = gateway.command("reload")
    assert done.returncode == 3
    assert "workers: must be greater than or equal to 1 (is 0)" in done.stderr
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: "settings are refused, the old ones stay" in gateway.log)
    (gateway.folder / "sluice.yaml").write_text(good)
    gateway.rewrite(state_dir="elsewhere")
    done = gateway.command("reload")
    assert done.returncode == 7
    assert "state_dir: only a restart can change this" in done.stderr
    (gateway.folder / "sluice.yaml").write_text(good)
    assert pids(gateway) == before
    assert gateway.infer().status_code == 200


def test_the_whole_program_is_replaced_without_an_error(gateway: Gateway) -> None:
    """By command: the process keeps its id and its sockets, everything else is new; what would not start is refused."""
    good = (gateway.folder / "sluice.yaml").read_text()
    (gateway.folder / "sluice.yaml").write_text("nonsense: true\n")
    refused = gateway.command("restart")
    assert refused.returncode == 3
    assert "unknown key 'nonsense'" in refused.stderr
    (gateway.folder / "sluice.yaml").write_text(good)
    before, generation = pids(gateway), gateway.api("GET", "/routes").json()["generation"]
    with Load(gateway.port) as load:
        done = gateway.command("restart", "--why", "upgrade")
        assert done.returncode == 0, done.stderr
        served = load.served
        until(lambda: load.served > served + 50)
    assert load.wrong == []
    assert replaced(gateway, before, 1)
    assert gateway.process.poll() is None
    assert "took over from an earlier program" in gateway.log
    assert gateway.api("GET", "/routes").json()["generation"] == generation
    assert gateway.api("GET", "/audit").json()[0]["detail"] == "all: upgrade"


def test_a_gateway_that_was_replaced_is_like_any_other(gateway: Gateway) -> None:
    """Its workers are watched, and it leaves nothing behind when it is told to end."""
    victim = pids(gateway)[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: replaced(gateway, [victim], 1))
    assert gateway.infer().status_code == 200
    children = pids(gateway)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert "Traceback" not in gateway.log
