"""A second attempt beside a slow first one."""

from collections import Counter
from collections.abc import Iterator

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
