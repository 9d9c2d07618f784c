"""A second attempt beside a slow first one."""

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from gateway.config import Limits
from tests.wire.backend import Backend, Script
from tests.wire.gateway import Gateway, decoded, infer, pool, route, running, until


@pytest.fixture
def slow_and_fast() -> Iterator[tuple[Gateway, Backend, Backend]]:
    """Two backends, of which the first takes half a second, behind a route that hedges after 50 ms."""
    with (
        Backend("slow", script=Script(delay_s=0.5)) as slow,
        Backend("fast") as fast,
        running((route(hedge_after_s=0.05),), (pool(slow.url, fast.url),), Limits(linger_s=5)) as gateway,
    ):
        yield gateway, slow, fast


def answers(gateway: Gateway, count: int) -> Counter[str]:
    """Which backends answered; every answer must belong to its request."""
    seen: Counter[str] = Counter()
    with gateway.connect() as wire:
        for number in range(count):
            wire.send(infer(test_id=f"id-{number}"))
            answer = wire.answer()
            assert answer.status == 200
            body = decoded(answer.body)
            assert body["id"] == f"id-{number}"
            seen[body["backend"]] += 1
    return seen


def test_the_faster_answer_wins(slow_and_fast: tuple[Gateway, Backend, Backend]) -> None:
    """Whatever backend is tried first, the fast one answers; the slow one's leases return when it is done."""
    gateway, slow, _ = slow_and_fast
    assert answers(gateway, 20) == {"fast": 20}
    until(lambda: len(slow.seen) > 0, "some first attempts went to the slow backend")
    report = gateway.settle()
    assert report.retries > 0
    assert gateway.counts().outcomes[0] == 20


def test_a_broken_hedge_does_no_harm(slow_and_fast: tuple[Gateway, Backend, Backend]) -> None:
    """When the second attempt breaks, the first one's answer counts."""
    gateway, _, fast = slow_and_fast
    fast.script = Script(delay_s=0.2, cut=0, then="reset")
    with gateway.connect() as wire:
        for _ in range(6):
            wire.send(infer())
            assert decoded(wire.answer().body)["backend"] == "slow"
    gateway.settle()


def test_a_client_that_leaves_ends_both(slow_and_fast: tuple[Gateway, Backend, Backend]) -> None:
    """Two attempts under way for a client that left: both leases return, and it counts once."""
    gateway, slow, fast = slow_and_fast
    fast.script = Script(delay_s=0.5)
    with gateway.connect() as wire:
        wire.send(infer())
        until(lambda: len(slow.seen) + len(fast.seen) == 2, "both attempts")
    report = gateway.settle()
    assert sum(sum(row.outcomes) for row in report.variants) == 1


def test_a_long_answer_of_the_second_attempt_comes_whole(slow_and_fast: tuple[Gateway, Backend, Backend]) -> None:
    """Taking over at the head of a streamed answer loses none of its bytes."""
    gateway, _, fast = slow_and_fast
    fast.script = Script(size=1_000_000, framing="chunked")
    with gateway.connect() as wire:
        for _ in range(6):
            wire.send(infer())
            assert len(wire.answer().body) == 1_000_000
    gateway.settle()


@pytest.fixture
def held() -> Iterator[tuple[Gateway, Backend, Backend]]:
    """Two backends with state that answer when told to, a route that hedges and one that says nothing of it."""
    stateful = {"sequence_batching": {"max_sequence_idle_microseconds": 60_000_000}}
    with (
        Backend("one", script=Script(hold=True), config=stateful) as one,
        Backend("two", script=Script(hold=True), config=stateful) as two,
        running((route("hedged", hedge_after_s=0.05), route("plain")), (pool(one.url, two.url),)) as gateway,
    ):
        yield gateway, one, two


def attempts(one: Backend, two: Backend) -> Counter[str]:
    """How often each request has reached a backend."""
    return Counter(one.ids() + two.ids())


def answered_beside_a_hedged_one(held: tuple[Gateway, Backend, Backend], data: bytes, test_id: str) -> None:
    """Sends a request and lets it wait for longer than a hedged one takes to be tried twice; then both are answered."""
    gateway, one, two = held
    beside = f"beside-{test_id}"
    with gateway.connect() as mine, gateway.connect() as clock:
        mine.send(data)
        until(lambda: attempts(one, two)[test_id] == 1, "its first attempt")
        clock.send(infer(name="hedged", test_id=beside))
        until(lambda: attempts(one, two)[beside] == 2, "both attempts of the request beside it")
        assert attempts(one, two)[test_id] == 1
        until(lambda: one.held + two.held == 3, "all of them wait")
        one.release()
        two.release()
        for wire, told in ((clock, beside), (mine, test_id)):
            answer = wire.answer()
            assert (answer.status, decoded(answer.body)["id"]) == (200, told)
    gateway.settle()


def test_a_route_that_does_not_ask_is_not_hedged(held: tuple[Gateway, Backend, Backend]) -> None:
    """However slow the backend is and whoever else could answer: one request of a client is one to a backend."""
    gateway, one, two = held
    for number in range(3):
        answered_beside_a_hedged_one(held, infer(name="plain", test_id=f"plain-{number}"), f"plain-{number}")
    found = attempts(one, two)
    assert {name: count for name, count in found.items() if name.startswith("plain")} == {
        "plain-0": 1, "plain-1": 1, "plain-2": 1,
    }  # fmt: skip
    assert gateway.report().retries == 3, "those of the requests beside"


def test_a_sequence_is_never_hedged(held: tuple[Gateway, Backend, Backend]) -> None:
    """A second replica knows nothing of it: each step reaches one backend, once, though its route hedges others."""
    gateway, one, two = held
    steps = ("start", "middle", "end")
    for step in steps:
        flags = {"sequence_id": 7, "sequence_start": step == "start", "sequence_end": step == "end"}
        body = msgspec.json.encode({"parameters": flags})
        answered_beside_a_hedged_one(held, infer(body, name="hedged", test_id=step), step)
    homes = [backend for backend in (one, two) if set(steps) & set(backend.ids())]
    assert len(homes) == 1
    assert [test_id for test_id in homes[0].ids() if test_id in steps] == list(steps)
    assert gateway.report().retries == 3, "those of the requests beside"
