"""A model is unloaded from a real Triton that has requests inside: whom another replica can serve does not notice."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from gateway.localtriton.server import LocalTriton
from tests.triton import zoo
from tests.triton.gateway import Gateway, route, serving

_WITHIN_S = 60.0
_CLIENTS = 6


@dataclass
class Seen:
    """What the clients saw so far: good answers, answers to another request, errors as (status, text)."""

    good: int = 0
    foreign: list[str] = field(default_factory=list)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def more(self, what: Callable[["Seen"], int], count: int) -> None:
        """Waits for so many more."""
        wanted = what(self) + count
        async with asyncio.timeout(_WITHIN_S):
            while what(self) < wanted:
                await asyncio.sleep(0.01)


def good(seen: Seen) -> int:
    return seen.good


def failed(seen: Seen) -> int:
    return seen.errors.total()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalTriton]]:
    """Two Tritons with the model that takes as long as it is asked to."""
    folder = tmp_path_factory.mktemp("pair")
    repository = folder / "repository"
    repository.mkdir()
    (zoo.build(folder / "zoo") / "slow").rename(repository / "slow")
    with ExitStack() as stack:
        yield [
            stack.enter_context(LocalTriton(repository, log_file=folder / f"triton-{i}.log", exit_timeout_s=1))
            for i in range(2)
        ]


@contextlib.asynccontextmanager
async def asking(gateway: Gateway) -> AsyncIterator[Seen]:
    """Clients that never pause. Each request takes a time of its own, which its answer repeats."""
    seen, stop, times = Seen(), asyncio.Event(), itertools.cycle(range(60, 160))

    async def client() -> None:
        async with triton_aio.InferenceServerClient(gateway.address, conn_timeout=_WITHIN_S) as triton:
            while not stop.is_set():
                wanted = next(times)
                tensor = triton_aio.InferInput("DELAY_MS", [1], "INT32")
                tensor.set_data_from_numpy(np.array([wanted], np.int32))
                try:
                    answer = await triton.infer("slow", [tensor])
                except InferenceServerException as error:
                    seen.errors[str(error.status()), error.message()] += 1
                    await asyncio.sleep(0.02)
                    continue
                waited = answer.as_numpy("WAITED_MS")
                if waited is not None and list(waited) == [wanted]:
                    seen.good += 1
                else:
                    seen.foreign.append(f"{wanted}: {waited}")

    tasks = [asyncio.create_task(client()) for _ in range(_CLIENTS)]
    try:
        await seen.more(good, _CLIENTS)
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def order(triton: LocalTriton, what: str) -> None:
    """Tells a Triton itself, as an operator does, to load or unload the model."""
    async with httpx.AsyncClient(trust_env=False, timeout=_WITHIN_S) as client:
        answer = await client.post(f"{triton.http_url}/v2/repository/models/slow/{what}")
    assert answer.status_code == 200, answer.text


async def executed(triton: LocalTriton) -> int:
    """How many inferences a Triton has finished."""
    async with httpx.AsyncClient(trust_env=False, timeout=_WITHIN_S) as client:
        answer = await client.get(f"{triton.http_url}/v2/models/slow/stats")
    return sum(stats["inference_stats"]["success"]["count"] for stats in answer.json()["model_stats"])


async def served_by(triton: LocalTriton, count: int) -> None:
    """Waits until a Triton has finished so many inferences since the model was loaded."""
    async with asyncio.timeout(_WITHIN_S):
        while await executed(triton) < count:
            await asyncio.sleep(0.02)


async def test_unloading_on_one_replica_fails_no_request(pair: list[LocalTriton], tmp_path: Path) -> None:
    """Those inside are finished, those that come too late are tried on the other; loaded again it serves again."""
    with serving(tmp_path, [triton.http_url for triton in pair], [route("slow", "slow")]) as gateway:
        async with asking(gateway) as seen:
            for triton in pair:
                await served_by(triton, 5)
                await order(triton, "unload")
                await seen.more(good, 20)
                await order(triton, "load")
                await served_by(triton, 1)
        assert not seen.errors
        assert not seen.foreign
        samples = gateway.metrics()
    assert sum(value for name, value in samples.items() if name.startswith("sluice_retries_total")) > 0


async def test_unloading_everywhere_is_said_in_tritons_words(pair: list[LocalTriton], tmp_path: Path) -> None:
    """Without a replica that has the model each client gets Triton's own error; once it is loaded all is as before."""
    with serving(tmp_path, [triton.http_url for triton in pair], [route("slow", "slow")]) as gateway:
        async with asking(gateway) as seen:
            for triton in pair:
                await order(triton, "unload")
            await seen.more(failed, 50)
            for triton in pair:
                await order(triton, "load")
            await seen.more(good, 2 * _CLIENTS)  # none is left of those that were told the error before
            before = failed(seen)
            await seen.more(good, 30)
            assert failed(seen) == before
        assert not seen.foreign
        for status, text in seen.errors:
            assert status in {"503", "404", "400"}
            assert text.startswith("Request for unknown model: 'slow' ")
        samples = gateway.metrics()
    ejections = [value for name, value in samples.items() if name.startswith("sluice_backend_ejections_total")]
    assert ejections
    assert sum(ejections) == 0, "an operator's order takes no backend out"
