"""Starts `sluice serve` as a user does and talks to it over plain sockets or TLS."""

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

T = TypeVar("T")
SLUICE = str(Path(sys.executable).with_name("sluice"))
INFER = "/v2/models/{}/infer"
# Whatever a test does, these secrets' environment is its own.
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}


@dataclass
class Gateway:
    """A running gateway.

    Attributes:
        folder: has sluice.yaml, routes.yaml and gateway.log, and is its working directory.
    """

    process: subprocess.Popen[bytes]
    url: str
    admin: str
    folder: Path
    verify: ssl.SSLContext | bool = True
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        """All that it has logged."""
        return (self.folder / "gateway.log").read_text()

    @property
    def port(self) -> int:
        """The data plane's port."""
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        """A client of the data plane."""
        options = {"verify": self.verify, "timeout": 10, "trust_env": False, **options}
        return httpx.Client(base_url=self.url, **options)

    def infer(self, route: str = "echo", headers: dict[str, str] | None = None, body: bytes = b"{}") -> httpx.Response:
        """One inference on a connection of its own."""
        with self.client() as client:
            return client.post(INFER.format(route), content=body, headers=headers or {})

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One call of the admin API."""
        options = {"timeout": 30, "trust_env": False, "headers": self.headers, **options}
        return httpx.request(method, f"{self.admin}/api/v1{path}", **options)

    def rewrite(self, **settings: Any) -> None:
        """Changes keys of sluice.yaml."""
        path = self.folder / "sluice.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `sluice` against it."""
        return sluice(*arguments, cwd=self.folder, SLUICE_ADMIN_URL=self.admin, **environment)


def sluice(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    env = {**CLEAN, **environment}
    return subprocess.run(
        [SLUICE, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env=env
    )


def route(name: str = "echo", **more: Any) -> dict[str, Any]:
    """A route with one variant."""
    return {"name": name, "variants": [{"name": "v1", "model": "m", "weight": 100}], **more}


def settings(folder: Path, *backends: str, **more: Any) -> dict[str, Any]:
    """Settings with free ports and quick probes."""
    pool = {"name": "default", "backends": [{"url": url} for url in backends], "probe": {"interval_s": 0.1}}
    return {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "state_dir": str(folder / "state"),
        "report_interval_s": 0.1,
        "log": {"format": "json"},
        "limits": {"drain_s": 5.0},
        "pools": [pool],
        **more,
    }


@contextlib.contextmanager
def start(
    folder: Path, config: dict[str, Any], routes: list[dict[str, Any]] | None = None, *options: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway that may still be starting; killed at the end if it has not ended."""
    (folder / "sluice.yaml").write_text(yaml.safe_dump(config))
    command = [SLUICE, "serve", "-o", "json", "--config", "sluice.yaml", *options]
    if routes is not None:
        (folder / "routes.yaml").write_text(yaml.safe_dump({"routes": routes}))
        command += ["--routes", "routes.yaml"]
    env = {**CLEAN, **environment}
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def serving(
    folder: Path,
    config: dict[str, Any],
    routes: list[dict[str, Any]] | None = None,
    *options: str,
    verify: ssl.SSLContext | bool = True,
    headers: dict[str, str] | None = None,
    **environment: str,
) -> Iterator[Gateway]:
    """A gateway that serves and is ready."""
    with start(folder, config, [route()] if routes is None else routes, *options, **environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"it did not start:\n{(folder / 'gateway.log').read_text()}"
        ready = json.loads(line)
        gateway = Gateway(process, ready["data_url"], ready["admin_url"], folder, verify, headers or {})
        until(lambda: ready_at(gateway))
        yield gateway


def ready_at(gateway: Gateway) -> bool:
    """Whether the gateway says it is ready."""
    with gateway.client() as client:
        return client.get("/v2/health/ready").status_code == 200


def until(condition: Callable[[], T], within_s: float = 60.0) -> T:
    """Polls until a condition holds and returns its value; failed connections count as not yet."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.HTTPError, OSError):
            if value := condition():
                return value
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
