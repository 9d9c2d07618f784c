"""A real controller with a virtual worker and scripted Tritons around it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.boot import ControllerBoot, Slots
from gateway.config import Config
from gateway.core.route import Routes
from tests.delivery.triton_double import TritonDouble
from tests.delivery.virtual_worker import VirtualWorker


def route(name: str, **more: Any) -> dict[str, Any]:
    """A route with `old` serving and `new` waiting."""
    model = more.pop("model", name)
    variants = [
        {"name": "old", "model": model, "version": "1", "weight": 100},
        {"name": "new", "model": model, "version": "2"},
    ]
    return {"name": name, "variants": variants, **more}


def quick(**more: Any) -> dict[str, Any]:
    """A policy that a test can wait for: two steps, errors only, no window."""
    steps = [
        {"weight": 20, "min_time_s": 0, "min_samples": 20, "slack": 20},
        {"weight": 50, "min_time_s": 0, "slack": 20},
    ]
    gates = {"errors": {}, "latency": None, "guardrails": None}
    return {"steps": steps, "gates": gates, "rollback_window_s": 0, **more}


@dataclass
class World:
    """All the parts."""

    tritons: list[TritonDouble]
    worker: VirtualWorker
    forker: subprocess.Popen[bytes]
    admin: httpx.Client
    ready_fd: int
    log: Path

    @property
    def triton(self) -> TritonDouble:
        """The first one."""
        return self.tritons[0]

    def order(self, command: str) -> None:
        """Tells the forker."""
        assert self.forker.stdin is not None
        assert self.forker.stdout is not None
        self.forker.stdin.write(command.encode() + b"\n")
        self.forker.stdin.flush()
        assert self.forker.stdout.readline() == b"ok\n"

    def start(self) -> None:
        """Starts a controller and waits until it serves."""
        self.order("start")
        os.read(self.ready_fd, 1)

    def rollout(self, name: str) -> dict[str, Any]:
        """A rollout as the API shows it."""
        answer = self.admin.get(f"/rollouts/{name}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def begin(self, name: str, policy: dict[str, Any] | None = None, **params: Any) -> httpx.Response:
        """Starts a rollout."""
        return self.admin.post(f"/routes/{name}/rollout", params=params, json=policy or quick())

    def command(self, name: str, verb: str, **params: Any) -> httpx.Response:
        """A person's command."""
        return self.admin.post(f"/routes/{name}/rollout/{verb}", params=params)

    def decisions(self, name: str) -> list[dict[str, Any]]:
        """All decisions of a rollout."""
        found: list[dict[str, Any]] = self.admin.get(f"/rollouts/{name}/decisions", params={"limit": 1000}).json()
        return found

    def until(self, name: str, *phases: str, within_s: float = 30.0) -> dict[str, Any]:
        """Polls until a rollout is in one of the phases."""
        deadline = time.monotonic() + within_s
        found: dict[str, Any] = {}
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                found = self.rollout(name)
                if found["phase"] in phases:
                    return found
            time.sleep(0.02)
        raise AssertionError(f"not in {phases} in time: {found}\n{self.log.read_text()[-3000:]}")


def eventually(condition: Callable[[], Any], within_s: float = 15.0) -> Any:
    """Polls until a condition holds and returns its value."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def world(place: Path, routes: list[dict[str, Any]], backends: int = 1, **settings: Any) -> Iterator[World]:
    """Everything, serving the routes; version 1 of each model is loaded."""
    models = {variant["model"] for found in routes for variant in found["variants"]}
    doubles = [TritonDouble(ready={(model, "1") for model in models}) for _ in range(backends)]
    pool = {"name": "default", "backends": [{"url": double.url} for double in doubles]}
    given = {k: (v(doubles) if callable(v) else v) for k, v in settings.items()}
    config = msgspec.convert(
        {
            "state_dir": str(place),
            "report_interval_s": 0.05,
            "pools": [pool],
            **given,
            "delivery": {"block_s": 0.05, **given.get("delivery", {})},
        },
        Config,
    )
    control, api = socket.socket(socket.AF_UNIX), socket.socket()
    control.bind(str(place / "c"))
    control.listen()
    control.setblocking(False)
    api.bind(("127.0.0.1", 0))
    api.listen()
    api.setblocking(False)
    ready_in, ready_out = os.pipe()
    slots = Slots.create()
    boot = ControllerBoot(
        admin_fd=api.fileno(),
        control_fd=control.fileno(),
        slots_fd=slots,
        ready_fd=ready_out,
        table_path=str(place / "table.msgpack"),
        config=config,
        routes=msgspec.convert({"routes": routes}, Routes),
    ).to_fd()
    log = place / "log"
    with log.open("ab") as errors:
        forker = subprocess.Popen(
            [sys.executable, "-m", "tests.delivery.forker", str(boot)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(boot, api.fileno(), control.fileno(), ready_out, slots),
            env={**os.environ, "HOOK_KEY": "hush"},
        )
    worker = VirtualWorker(str(place / "c"))
    url = f"http://127.0.0.1:{api.getsockname()[1]}/api/v1"
    admin = httpx.Client(base_url=url, timeout=20, trust_env=False)
    found = World(doubles, worker, forker, admin, ready_in, log)
    try:
        found.start()
        yield found
    finally:
        with contextlib.suppress(OSError, AssertionError):
            found.order("quit")
        forker.wait(10)
        for stream in (forker.stdin, forker.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        worker.close()
        admin.close()
        for double in doubles:
            double.close()
        control.close()
        api.close()
        for fd in (ready_in, ready_out, slots, boot):
            with contextlib.suppress(OSError):
                os.close(fd)
