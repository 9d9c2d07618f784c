"""A real Triton is killed, told to end or stopped in the middle of an upload: what becomes of it, and of all others."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.localtriton.server import LocalTriton
from tests.conftest import StartTriton
from tests.triton import zoo
from tests.triton.gateway import Gateway, eventually, in_thread, route, serving
from tests.triton.load import loading
from tests.wire.client import Answer, Wire

_TIMEOUT_S = 15.0
_COUNT = 500_000
_DATA = bytes(range(250)) * (4 * _COUNT // 250)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the model that returns what it gets, and the versioned one."""
    folder = tmp_path_factory.mktemp("mid-body")
    built, root = zoo.build(folder / "zoo"), folder / "repository"
    root.mkdir()
    for name in ("large_identity", "versioned"):
        (built / name).rename(root / name)
    return root


@pytest.fixture(scope="module")
def survivor(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """The replica to which nothing happens."""
    log = tmp_path_factory.mktemp("survivor") / "triton.log"
    with LocalTriton(repository, log_file=log, exit_timeout_s=1) as triton:
        yield triton


def _upload() -> bytes:
    tensor = {"name": "DATA", "shape": [1, _COUNT], "datatype": "FP32", "parameters": {"binary_data_size": len(_DATA)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return (
        b"POST /v2/models/large/infer HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n"
        b"Inference-Header-Content-Length: %d\r\n\r\n%b%b" % (len(head) + len(_DATA), len(head), head, _DATA)
    )


def _whole(answer: Answer) -> bool:
    start = int(answer.headers["inference-header-content-length"])
    return answer.body[start:] == _DATA


def _states(gateway: Gateway) -> dict[str, set[str]]:
    return {row["url"]: set(row["states"]) for row in gateway.ask("/backends")}


@pytest.mark.parametrize(
    ("number", "statuses"),
    [(signal.SIGKILL, {502}), (signal.SIGTERM, {200, 400, 502, 503}), (signal.SIGSTOP, {504})],
)
async def test_a_replica_in_the_middle_of_an_upload(
    repository: Path,
    survivor: LocalTriton,
    start_triton: StartTriton,
    tmp_path: Path,
    number: signal.Signals,
    statuses: set[int],
) -> None:
    """Its own upload ends with one whole answer, the other replica's is not touched, and everyone else is served."""
    victim = start_triton(repository)
    routes = [route("large", "large_identity", timeout_s=_TIMEOUT_S), route("split", "versioned", 50, 50)]
    with serving(tmp_path / "gateway", [victim.http_url, survivor.http_url], routes, workers=1) as gateway:
        await in_thread(_uploads, gateway, victim, number, statuses)
        await in_thread(eventually, lambda: _states(gateway)[victim.http_url] == {"down"})
        async with loading(gateway.url, "split") as load:
            while load.answered < 100:
                await asyncio.sleep(0.01)
        assert set(load.statuses) == {200}
        assert (load.wrong, load.lost, load.refused) == (0, 0, 0)
        if number is signal.SIGSTOP:
            victim.resume()
            await in_thread(eventually, lambda: _states(gateway)[victim.http_url] == {"up"})


def _uploads(gateway: Gateway, victim: LocalTriton, number: signal.Signals, statuses: set[int]) -> None:
    """Two uploads, one on each replica; the signal comes when half of each is sent."""
    upload = _upload()
    half = len(upload) // 2
    with ExitStack() as stack:
        port = int(gateway.url.rpartition(":")[2])
        wires = [stack.enter_context(Wire(port, timeout_s=60)) for _ in range(2)]
        for wire in wires:
            wire.send(upload[:half])
        eventually(lambda: [row["in_flight"] for row in gateway.ask("/backends")] == [1, 1])
        os.kill(victim.pid, number)

        def finish(wire: Wire) -> Answer:
            with contextlib.suppress(OSError):  # it may be told the outcome before it has sent all
                wire.send(upload[half:])
            return wire.answer()

        with ThreadPoolExecutor() as both:
            answers = list(both.map(finish, wires))
    whole = [answer for answer in answers if answer.status == 200 and _whole(answer)]
    others = [answer for answer in answers if answer not in whole]
    assert whole
    assert others or 200 in statuses
    for answer in others:
        assert answer.status in statuses
        assert json.loads(answer.body)["error"]
