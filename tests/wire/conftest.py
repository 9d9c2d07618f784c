"""One worker for all tests that need no settings of their own; each checks that its counters add up afterwards."""

from collections.abc import Iterator

import pytest

from gateway.config import Limits
from gateway.core.route import Match, Variant
from tests.wire.backend import Backend, Script
from tests.wire.gateway import Gateway, pool, route, running


@pytest.fixture(scope="session")
def shared_backend() -> Iterator[Backend]:
    """The backend behind the shared worker."""
    with Backend("a") as backend:
        yield backend


@pytest.fixture(scope="session")
def shared_gateway(shared_backend: Backend) -> Iterator[Gateway]:
    """A worker with default limits and the routes m (one variant), once (no retries) and split (two variants)."""
    pair = (
        Variant(name="a", model="model", version="1", weight=70.0),
        Variant(name="b", model="model", version="2", weight=30.0),
    )
    routes = (
        route(),
        route("once", retries=0),
        route("brief", timeout_s=0.3),
        route("split", variants=pair, matches=(Match(header="x-tier", value="gold", variant="b"),)),
        route("sticky", variants=pair, sticky_header="x-user"),
    )
    with running(routes, (pool(shared_backend.url),), Limits(linger_s=0.5)) as gateway:
        yield gateway


@pytest.fixture
def backend(shared_backend: Backend) -> Iterator[Backend]:
    """The shared backend, with nothing left over from another test."""
    shared_backend.seen.clear()
    yield shared_backend
    shared_backend.queue.clear()
    shared_backend.script = Script()
    shared_backend.on_connect = "serve"


@pytest.fixture
def gateway(shared_gateway: Gateway, backend: Backend) -> Iterator[Gateway]:
    """The shared worker; after the test nothing may be under way and every count must have its outcome."""
    yield shared_gateway
    shared_gateway.settle()
