"""Starts the gateway as a user does, in front of real Tritons, and asks its admin API."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml


@dataclass
class Gateway:
    """A running `sluice serve`.

    Attributes:
        url: `http://host:port` of the data plane.
        admin: the same of the admin API.
        address: `host:port` of the data plane, as tritonclient wants it.
    """

    process: subprocess.Popen[bytes]
    url: str
    admin: str
    log: Path

    @property
    def address(self) -> str:
        """The data plane without its scheme."""
        return self.url.removeprefix("http://")

    def apply(self, routes: Sequence[dict[str, Any]]) -> None:
        """Publishes routes and waits until every worker serves them."""
        body = {"routes": list(routes)}
        answer = httpx.put(f"{self.admin}/api/v1/routes", json=body, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text

    def ask(self, path: str) -> Any:
        """What the admin API answers."""
        answer = httpx.get(f"{self.admin}/api/v1{path}", timeout=10, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def metrics(self) -> dict[str, float]:
        """All samples of /metrics by name and labels, as Prometheus writes them."""
        text = httpx.get(f"{self.admin}/metrics", timeout=10, trust_env=False).text
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def route(name: str, model: str, *weights: float, **more: Any) -> dict[str, Any]:
    """A route over the versions 1, 2, ... of a model, with these weights (one variant of all traffic if none)."""
    shares = weights or (100.0,)
    variants = [
        {"name": f"v{i}", "model": model, "version": str(i), "weight": weight} for i, weight in enumerate(shares, 1)
    ]
    return {"name": name, "variants": variants, **more}


@contextlib.contextmanager
def serving(
    folder: Path,
    tritons: Sequence[str],
    routes: Sequence[dict[str, Any]],
    workers: int = 2,
    **settings: Any,
) -> Iterator[Gateway]:
    """A gateway in front of these Tritons; stopped in order at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "workers": workers,
        "state_dir": str(folder / "state"),
        "report_interval_s": 0.1,
        "pools": [{"name": "default", "backends": [{"url": url} for url in tritons], "probe": {"interval_s": 0.2}}],
        **settings,
    }
    (folder / "sluice.yaml").write_text(yaml.safe_dump(config))
    (folder / "routes.yaml").write_text(yaml.safe_dump({"routes": list(routes)}))
    log = folder / "gateway.log"
    command = [str(Path(sys.executable).with_name("sluice")), "serve", "-o", "json"]
    command += ["--config", str(folder / "sluice.yaml"), "--routes", str(folder / "routes.yaml")]
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the gateway did not start:\n{log.read_text()}"
        ready = json.loads(line)
        gateway = Gateway(process, ready["data_url"], ready["admin_url"], log)
        eventually(lambda: httpx.get(f"{gateway.url}/v2/health/ready", trust_env=False).status_code == 200)
        yield gateway
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


async def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    """Runs what blocks without stopping a load of this loop."""
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


def eventually(condition: Any, within_s: float = 20.0) -> Any:
    """Polls until a condition holds and returns its value; failed connections count as not yet."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.HTTPError, OSError):
            if value := condition():
                return value
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
