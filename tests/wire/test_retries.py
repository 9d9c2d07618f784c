"""Second attempts: only where nothing was passed on, within the deadline and the budget, on another backend."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.core.pool import Ejection, Probe
from gateway.telemetry.records import Outcome
from tests.wire.backend import Backend, Script, backends, until_asked
from tests.wire.client import ClosedError
from tests.wire.gateway import Gateway, decoded, infer, pool, route, running, until
from tests.wire.load import Load


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Backend, Backend]]:
    """Two backends."""
    with backends("a", "b") as (one, two):
        yield one, two


@pytest.fixture(scope="module")
def worker(pair: tuple[Backend, Backend]) -> Iterator[Gateway]:
    """A worker with both of them in a pool, and a route without retries."""
    routes = (route(), route("once", retries=0), route("brief", timeout_s=0.6))
    # Without questions for models, so that a backend which said that it lacks one is tried again.
    fleet = pool(pair[0].url, pair[1].url, probe=Probe(interval_s=0, models_interval_s=0))
    with running(routes, (fleet,)) as gateway:
        yield gateway


@pytest.fixture
def gateway(worker: Gateway, pair: tuple[Backend, Backend]) -> Iterator[Gateway]:
    """The same, with the backends as new."""
    for backend in pair:
        backend.seen.clear()
    yield worker
    for backend in pair:
        backend.script = Script()
        backend.release()
    worker.settle()


_ELSEWHERE = [
    (503, "Server exiting"),
    (503, "Server not ready"),
    (503, "Request for model at version which is not at ready state"),
    (400, "Request for unknown model: 'model' is not found"),
    (400, "Request for unknown model: 'model' has no available versions"),
]


@pytest.mark.parametrize(("status", "text"), _ELSEWHERE)
@pytest.mark.parametrize("size", [2, 200_000])
def test_not_here_is_tried_elsewhere(
    gateway: Gateway, pair: tuple[Backend, Backend], status: int, text: str, size: int
) -> None:
    """What Triton says while it leaves is no answer as long as another replica can give one."""
    pair[0].script = Script(status=status, body=f'{{"error":"{text}"}}')
    with gateway.connect() as wire:
        for i in until_asked(pair[0]):
            wire.send(infer(b"x" * size, test_id=str(i)))
            answer = wire.answer()
            assert (answer.status, decoded(answer.body)["backend"]) == (200, "b")
            assert decoded(answer.body)["length"] == size


@pytest.mark.parametrize(
    ("status", "text"),
    [(503, "Exceeds maximum queue size"), (503, "Request timeout expired"), (400, "invalid shape"), (500, "boom")],
)
def test_final_answers_are_passed_on(gateway: Gateway, pair: tuple[Backend, Backend], status: int, text: str) -> None:
    """A full queue, a bad request or a failure of the model is the answer, after one attempt."""
    for backend in pair:
        backend.script = Script(status=status, body=f'{{"error":"{text}"}}')
    with gateway.connect() as wire:
        for _ in range(4):
            wire.send(infer())
            answer = wire.answer()
            assert (answer.status, decoded(answer.body)["error"]) == (status, text)
    assert len(pair[0].seen) + len(pair[1].seen) == 4


@pytest.mark.parametrize(
    ("text", "ejected"),
    [("Exceeds maximum queue size", 0), ("Request timeout expired", 0), ("x is not at ready state", 0), ("boom", 1)],
)
def test_a_busy_backend_is_not_ejected(pair: tuple[Backend, Backend], text: str, ejected: int) -> None:
    """Full queues everywhere must not cost a replica as well; any other 503 in a row does."""
    for backend in pair:
        backend.script = Script(status=503, body=f'{{"error":"{text}"}}')
    fleet = pool(pair[0].url, pair[1].url, ejection=Ejection(consecutive=3))
    with running((route(),), (fleet,)) as gateway, gateway.connect() as wire:
        for _ in range(20):
            wire.send(infer())
            assert wire.answer().status == 503
        assert sum(backend.ejections for backend in gateway.settle().backends) == ejected
    for backend in pair:
        backend.script = Script()


def test_unknown_model_of_a_lone_backend_is_the_clients() -> None:
    """Without another replica the answer of the only one stands."""
    with Backend("a") as alone, running((route(),), (pool(alone.url),)) as gateway, gateway.connect() as wire:
        alone.script = Script(status=400, body='{"error":"Request for unknown model: \'m\' is not found"}')
        wire.send(infer())
        assert wire.answer().status == 400
        assert len(alone.seen) == 1


@pytest.mark.parametrize("then", ["reset", "close"])
@pytest.mark.parametrize("size", [2, 200_000])
def test_lost_connection_is_tried_again(gateway: Gateway, pair: tuple[Backend, Backend], then: str, size: int) -> None:
    """A backend that takes a request and ends the connection costs the client nothing."""
    pair[0].script = Script(cut=0, then=then)  # type: ignore[arg-type]
    with gateway.connect() as wire:
        for i in until_asked(pair[0]):
            wire.send(infer(b"x" * size, test_id=str(i)))
            assert decoded(wire.answer().body)["backend"] == "b"


def test_body_too_long_to_hold_is_not_sent_twice(gateway: Gateway, pair: tuple[Backend, Backend]) -> None:
    """A body beyond the bound streams; when its backend is lost in the middle, the client is told."""
    for backend in pair:
        backend.script = Script(read=1000, cut=0, then="reset")
    with gateway.connect() as wire:
        wire.send(infer(b"x" * 3_000_000))
        assert wire.answer().status == 502
    assert len(pair[0].seen) + len(pair[1].seen) == 1


def test_no_retry_without_permission(gateway: Gateway, pair: tuple[Backend, Backend]) -> None:
    """A route with `retries: 0` has one attempt, whatever happens."""
    for backend in pair:
        backend.script = Script(cut=0, then="reset")
    with gateway.connect() as wire:
        wire.send(infer(name="once"))
        assert wire.answer().status == 502
    assert len(pair[0].seen) + len(pair[1].seen) == 1


def test_no_retry_after_the_first_byte(gateway: Gateway, pair: tuple[Backend, Backend]) -> None:
    """Once a byte of the answer was passed on there is no other."""
    for backend in pair:
        backend.script = Script(size=1000, cut=500, then="reset")
    with gateway.connect() as wire:
        wire.send(infer())
        with pytest.raises(ClosedError):
            wire.answer()
    assert len(pair[0].seen) + len(pair[1].seen) == 1


def test_backend_that_is_down() -> None:
    """With one backend gone every request is served by the other, long bodies included; with both gone all get 503."""
    with ExitStack() as stack:
        one, two = stack.enter_context(backends("a", "b"))
        gateway = stack.enter_context(running((route(),), (pool(one.url, two.url),)))
        wire = stack.enter_context(gateway.connect())
        one.kill()
        for size in (2, 2, 2, 200_000, 2_000_000, 2, 2):
            wire.send(infer(b"x" * size))
            answer = wire.answer()
            assert (answer.status, decoded(answer.body)["backend"]) == (200, "b")
        two.kill()
        for size in (2, 2_000_000):
            wire.send(infer(b"x" * size))
            assert wire.answer().status == 503
        two.listen()
        wire.send(infer())
        assert wire.answer().status == 200
        assert gateway.settle().retries > 0
        assert gateway.outcome(Outcome.CONNECT_ERROR) == 2


def test_deadline_holds_over_all_attempts(gateway: Gateway, pair: tuple[Backend, Backend]) -> None:
    """A second attempt gets only the time that the first one left."""
    slow = Script(delay_s=0.4, cut=0, then="reset")
    for backend in pair:
        backend.script = slow
    with gateway.connect() as wire:
        wire.send(infer(name="brief"))
        assert wire.answer().status == 504
    for backend in pair:
        backend.script = Script(delay_s=0.35)
    with gateway.connect() as wire:
        wire.send(infer(name="brief"))
        assert wire.answer().status == 200


def test_budget(pair: tuple[Backend, Backend]) -> None:
    """When everything fails, retries stay a share of the requests instead of doubling the load."""
    for backend in pair:
        backend.script = Script(status=503, body='{"error":"Server not ready"}')
    count, started = 1500, time.monotonic()
    with running((route(),), (pool(pair[0].url, pair[1].url),)) as gateway, gateway.connect() as wire:
        for _ in range(count // 100):
            wire.send(infer() * 100)
            for _ in range(100):
                assert wire.answer().status == 503
        retries = gateway.settle().retries
    for backend in pair:
        backend.script = Script()
    # The reserve of a quiet time, ten a second, and a fifth of the requests.
    assert 50 < retries <= 100 + 10 * (time.monotonic() - started) + 0.2 * count


def test_killed_backend_under_load() -> None:
    """One of two backends is killed with a hundred requests inside, three times: no client notices."""
    with ExitStack() as stack:
        one, two = stack.enter_context(backends("a", "b"))
        fleet = pool(
            one.url, two.url, probe=Probe(interval_s=0.05, timeout_s=0.5), ejection=Ejection(consecutive=3, base_s=0.1)
        )
        gateway = stack.enter_context(running((route(timeout_s=20),), (fleet,)))
        one.script = two.script = Script(delay_s=0.05)
        with Load(gateway.port, 100, long=0.0) as load:
            for i in range(3):
                until(lambda wanted=i * 300: load.tally.answered > wanted, "requests go on", 30)
                one.kill()
                until(lambda wanted=i * 300 + 150: load.tally.answered > wanted, "requests go on", 30)
                one.listen()
        tally = load.stop()
        assert not tally.foreign
        assert not tally.broken
        assert tally.statuses.keys() == {200}, tally
        gateway.settle()
