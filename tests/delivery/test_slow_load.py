"""Slow loads on a real Triton: nobody waits for them, and one that is given up is undone when it ends."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core.rollout import Command
from gateway.core.rollout_policy import RolloutPolicy
from gateway.localtriton.server import LocalTriton
from tests.delivery.plane import plane
from tests.delivery.slow_version import ready_versions, slow_version
from tests.triton.gateway import Gateway, eventually, serving

_CLIENTS = 16
_BODY = json.dumps(
    {"inputs": [{"name": "DELAY_MS", "datatype": "INT32", "shape": [1], "data": [1]}]},
).encode()


def _asked(gateway: Gateway) -> list[int]:
    """Statuses of a few requests on each of many connections, all at once."""
    host, port = gateway.address.split(":")

    def one(_number: int) -> list[int]:
        connection = HTTPConnection(host, int(port), timeout=10)
        statuses = []
        for _ in range(3):
            connection.request("POST", "/v2/models/r/infer", _BODY, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        return statuses

    with ThreadPoolExecutor(_CLIENTS) as pool:
        return [status for statuses in pool.map(one, range(_CLIENTS)) for status in statuses]


@pytest.mark.timeout(180)
def test_requests_do_not_wait_for_a_load(tmp_path: Path) -> None:
    """While a version loads, all the others' requests are answered, on old connections and on new ones.

    The load ends only after they are, so none of them can have waited for it.
    """
    made = slow_version(tmp_path)
    variants = [
        {"name": "old", "model": "m", "version": "1", "weight": 100},
        {"name": "new", "model": "m", "version": "2"},
    ]
    with LocalTriton(made.repository, log_file=tmp_path / "log", exit_timeout_s=1) as triton:
        backends = [{"url": triton.http_url, "grpc_port": triton.grpc_port}]
        pools = [{"name": "default", "backends": backends, "probe": {"interval_s": 0.2}}]
        routes: list[dict[str, Any]] = [{"name": "r", "variants": variants, "timeout_s": 5}]
        with serving(tmp_path / "gateway", [triton.http_url], routes, pools=pools) as gateway:
            assert set(_asked(gateway)) == {200}
            started = httpx.post(f"{gateway.admin}/api/v1/routes/r/rollout", timeout=30, trust_env=False)
            assert started.status_code == 201, started.text
            try:
                eventually(made.begun.exists, 60)
                assert set(_asked(gateway)) == {200}
                assert set(_asked(gateway)) == {200}
                assert gateway.ask("/rollouts/r")["phase"] == "loading"
            finally:
                made.go.touch()
            eventually(lambda: gateway.ask("/rollouts/r")["phase"] == "judging", 60)
            assert ready_versions(triton.http_url) == {"1", "2"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("over", ["gRPC", "HTTP"])
def test_a_load_that_was_given_up_is_undone_when_it_ends(tmp_path: Path, over: str) -> None:
    """Aborted while loading: no traffic was sent, and the rollout is over only once the version is gone again."""
    made = slow_version(tmp_path)

    async def check(triton: LocalTriton) -> None:
        port = triton.grpc_port if over == "gRPC" else 0
        async with plane(tmp_path, triton.http_url, grpc_port=port) as at:
            run = await at.start(RolloutPolicy())
            await at.look_until(run, made.begun.exists, 60)
            asked = run.ask(Command(id="1", kind="abort", by="ann"))
            # Longer than Triton is waited for when it is asked what it has.
            later = time.monotonic() + 5.0
            await at.look_until(run, lambda: time.monotonic() >= later)
            assert (await asked).event == "abort"
            assert run.record.state.phase.value == "aborting"
            made.go.touch()
            await at.look_until(run, lambda: run.record.state.final, 60)
            assert run.record.state.phase.value == "aborted"

    with LocalTriton(made.repository, log_file=tmp_path / "log", exit_timeout_s=1) as triton:
        assert ready_versions(triton.http_url) == {"1"}
        asyncio.run(check(triton))
        assert ready_versions(triton.http_url) == {"1"}
