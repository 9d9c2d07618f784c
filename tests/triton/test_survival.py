"""What the gateway survives under load, with real Tritons: new tables, killed processes, lost replicas."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from gateway.localtriton.server import LocalTriton
from tests.conftest import StartTriton
from tests.triton import zoo
from tests.triton.gateway import Gateway, eventually, in_thread, route, serving
from tests.triton.load import loading


def children(gateway: Gateway, role: str) -> list[int]:
    """Process ids of the gateway's children with this role."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "stat").exists():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == gateway.process.pid and role.encode() in arguments:
                found.append(int(entry.name))
    return found


async def test_a_hundred_generations_under_load(triton: LocalTriton, tmp_path: Path) -> None:
    """100 new tables reach every worker while clients keep asking: no request fails, none gets a wrong answer."""
    with serving(tmp_path, [triton.http_url], [route("split", "versioned", 50, 50)]) as gateway:
        async with loading(gateway.url, "split") as load:
            for step in range(100):
                weight = float(step % 99 + 1)
                await in_thread(gateway.apply, [route("split", "versioned", weight, 100 - weight)])
            workers = await in_thread(gateway.ask, "/workers")
        rows = workers["workers"] if isinstance(workers, dict) else workers
        assert [row["generation"] for row in rows] == [101, 101]
        assert set(load.statuses) == {200}
        assert (load.wrong, load.lost, load.refused) == (0, 0, 0)


async def test_a_killed_controller_costs_no_request(triton: LocalTriton, tmp_path: Path) -> None:
    """The workers serve on without a controller, and the next one publishes again."""
    with serving(tmp_path, [triton.http_url], [route("split", "versioned", 50, 50)]) as gateway:
        async with loading(gateway.url, "split") as load:
            (controller,) = children(gateway, "controller")
            os.kill(controller, signal.SIGKILL)
            before = load.answered
            await in_thread(eventually, lambda: children(gateway, "controller") not in ([], [controller]))
            await in_thread(eventually, lambda: gateway.ask("/generations"))
            await in_thread(gateway.apply, [route("split", "versioned", 0, 100)])
            load.variants.clear()
            while load.variants["v2"] < 20:
                await asyncio.sleep(0.01)
        assert load.answered > before
        assert load.variants["v1"] <= 8  # those under way when the table changed
        assert set(load.statuses) == {200}
        assert (load.wrong, load.lost, load.refused) == (0, 0, 0)


async def test_a_killed_worker_loses_only_what_it_held(triton: LocalTriton, tmp_path: Path) -> None:
    """Only requests inside the killed worker are lost, no connection is refused, and the slot is filled again."""
    with serving(tmp_path, [triton.http_url], [route("split", "versioned", 50, 50)]) as gateway:
        async with loading(gateway.url, "split", clients=8) as load:
            victim = children(gateway, "worker")[0]
            os.kill(victim, signal.SIGKILL)
            await in_thread(eventually, lambda: len(alive := children(gateway, "worker")) == 2 and victim not in alive)
            after = load.answered
            while load.answered < after + 100:
                await asyncio.sleep(0.01)
        assert set(load.statuses) == {200}
        assert load.wrong == 0
        assert load.refused == 0
        assert load.lost <= 8  # at most one request on each of its connections


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    """A repository with the sequence model and the versioned one."""
    repository = tmp_path / "repository"
    built = zoo.build(tmp_path / "zoo")
    repository.mkdir()
    for name in ("accumulate", "versioned"):
        (built / name).rename(repository / name)
    return repository


def add(client: Any, value: int, sequence: int, **flags: bool) -> tuple[int, bytes]:
    tensor = triton_http.InferInput("VALUE", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[value]], np.int32))
    answer = client.infer("sums", [tensor], sequence_id=sequence, **flags)
    return int(answer.as_numpy("SUM")[0, 0]), answer.as_numpy("SERVER")[0, 0]


def test_sequences_stay_on_their_replica_and_say_when_it_is_gone(
    start_triton: StartTriton, sequences: Path, tmp_path: Path
) -> None:
    """Over two workers and two Tritons each sequence sticks to one replica; a killed replica is a distinct error."""
    servers = [start_triton(sequences), start_triton(sequences)]
    urls = [server.http_url for server in servers]
    with serving(
        tmp_path / "gateway", urls, [route("sums", "accumulate"), route("split", "versioned", 100)]
    ) as gateway:
        # A connection of its own for every request, so that each sequence meets both workers.
        homes: dict[int, set[bytes]] = {}
        for step in range(3):
            for sequence in range(1, 13):
                with triton_http.InferenceServerClient(gateway.address) as client:
                    total, server = add(client, sequence, sequence, sequence_start=step == 0)
                assert total == sequence * (step + 1)
                homes.setdefault(sequence, set()).add(server)
        assert all(len(found) == 1 for found in homes.values())
        assert len(set.union(*homes.values())) == 2, "both replicas hold sequences"

        servers[0].kill()
        with triton_http.InferenceServerClient(gateway.address) as client:
            outcomes = []
            for sequence in homes:
                try:
                    outcomes.append(add(client, 1, sequence, sequence_end=True)[0] == sequence * 3 + 1)
                except InferenceServerException as error:
                    outcomes.append("replica that held this sequence is gone" in str(error))
            assert all(outcomes)
            assert add(client, 5, 99, sequence_start=True)[0] == 5


async def test_a_killed_replica_fails_no_idempotent_request(
    start_triton: StartTriton, sequences: Path, tmp_path: Path
) -> None:
    """With a second Triton alive, SIGKILL of the first one under load fails nothing: every request is tried again."""
    servers = [start_triton(sequences), start_triton(sequences)]
    urls = [server.http_url for server in servers]
    with serving(tmp_path / "gateway", urls, [route("split", "versioned", 50, 50)]) as gateway:
        async with loading(gateway.url, "split") as load:
            await in_thread(servers[0].kill)
            after = load.answered
            while load.answered < after + 300:
                await asyncio.sleep(0.01)
        assert set(load.statuses) == {200}
        assert (load.wrong, load.lost, load.refused) == (0, 0, 0)
