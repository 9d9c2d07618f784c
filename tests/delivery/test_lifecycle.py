"""Orders to one backend's repository: one at a time, and none twice."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from gateway.controlplane.delivery.model_control import ModelControl
from gateway.controlplane.delivery.repository import Repository
from tests.delivery.triton_double import Call, TritonDouble

LOAD = "/v2/repository/models/m/load"


class SlowTriton(TritonDouble):
    """Takes its time for a load, and notes when two of them overlap."""

    overlapped = False

    def _order(self, model: str, verb: str, call: Call) -> tuple[int, Any]:
        if not self._busy.acquire(blocking=False):
            self.overlapped = True
            return 500, {"error": "two orders at once"}
        try:
            threading.Event().wait(0.1)
            return super()._order(model, verb, call)
        finally:
            self._busy.release()

    def __post_init__(self) -> None:
        self._busy = threading.Lock()
        super().__post_init__()


@pytest.fixture
def slow() -> Iterator[SlowTriton]:
    """A backend that has version 1."""
    found = SlowTriton(ready={("m", "1")})
    yield found
    found.close()


def together(*orders: Callable[[Repository], Awaitable[Any]]) -> list[Any]:
    """All orders at once, through one repository."""

    async def give() -> list[Any]:
        async with httpx.AsyncClient(trust_env=False) as client:
            repository = Repository(client, ModelControl(tuple))
            return await asyncio.gather(*(order(repository) for order in orders))

    return asyncio.run(give())


def test_a_version_wanted_many_times_is_loaded_once(slow: SlowTriton) -> None:
    """Five who want the same version share one load; one of them is told that it took a load."""
    found = together(*[lambda repository: repository.load(slow.url, "m", "2")] * 5)
    assert sorted(found) == [False, False, False, False, True]
    assert len(slow.posted(LOAD)) == 1
    assert slow.ready == {("m", "1"), ("m", "2")}


def test_versions_wanted_at_once_do_not_push_each_other_out(slow: SlowTriton) -> None:
    """Each load names all versions that shall be there, so they must not overlap: none is lost, one is taken away."""
    together(
        lambda repository: repository.load(slow.url, "m", "2"),
        lambda repository: repository.load(slow.url, "m", "3"),
        lambda repository: repository.unload(slow.url, "m", "1"),
        lambda repository: repository.load(slow.url, "m", "4"),
    )
    assert slow.ready == {("m", "2"), ("m", "3"), ("m", "4")}
    assert not slow.overlapped
