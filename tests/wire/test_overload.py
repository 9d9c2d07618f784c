"""More requests than slots: who waits, who is turned away, and that nothing is lost over it."""

import json

from gateway.config import Limits
from gateway.core.route import Adaptive
from gateway.telemetry.records import Outcome
from tests.wire.backend import Backend, Script
from tests.wire.gateway import infer, pool, route, running, until

SLOW = Script(delay_s=0.4)


def test_requests_wait_for_a_slot_and_are_all_answered() -> None:
    """With one slot, five requests at once are answered one after another, none is shed."""
    with (
        Backend("a", script=Script(delay_s=0.05)) as backend,
        running((route(max_in_flight=1, queue_timeout_s=10),), (pool(backend.url),)) as gateway,
    ):
        wires = [gateway.connect() for _ in range(5)]
        for number, wire in enumerate(wires):
            wire.send(infer(test_id=f"id-{number}"))
        for number, wire in enumerate(wires):
            answer = wire.answer()
            assert (answer.status, json.loads(answer.body)["id"]) == (200, f"id-{number}")
            wire.__exit__(None, None, None)
        gateway.settle()
        assert gateway.outcome(Outcome.OK) == 5


def test_a_full_line_sheds_and_says_when_to_come_back() -> None:
    """One slot, one place in line: the third request is 503 with Retry-After at once."""
    with (
        Backend("a", script=SLOW) as backend,
        running((route(max_in_flight=1, max_queued=1, queue_timeout_s=10),), (pool(backend.url),)) as gateway,
        gateway.connect() as first,
        gateway.connect() as second,
        gateway.connect() as third,
    ):
        first.send(infer())
        until(lambda: len(backend.seen) == 1, "the first is at the backend")
        second.send(infer())
        third.send(infer())
        statuses = sorted([second.answer().status, third.answer().status])
        assert statuses == [200, 503]
        assert first.answer().status == 200
        gateway.settle()
        assert gateway.outcome(Outcome.SHED) == 1


def test_priority_goes_first() -> None:
    """Of those who wait, the one with priority 1 is served next, by header or by its own V2 parameter."""
    with (
        Backend("a", script=Script(delay_s=0.1)) as backend,
        running((route(max_in_flight=1, queue_timeout_s=10),), (pool(backend.url),)) as gateway,
        gateway.connect() as first,
        gateway.connect() as plain,
        gateway.connect() as header,
        gateway.connect() as parameter,
    ):
        first.send(infer(test_id="first", extra=Script(delay_s=1.0).header()))
        until(lambda: len(backend.seen) == 1, "the first is at the backend")
        plain.send(infer(test_id="plain"))
        until(lambda: gateway.report().buffered_bytes == 4, "it waits")
        parameter.send(infer(b'{"parameters":{"priority":2}}', test_id="parameter"))
        until(lambda: gateway.report().buffered_bytes > 20, "it waits")
        header.send(infer(test_id="header", extra=b"x-sluice-priority: 1\r\n"))
        for wire in (first, plain, header, parameter):
            assert wire.answer().status == 200
        assert [seen.test_id for seen in backend.seen] == ["first", "header", "parameter", "plain"]
        gateway.settle()


def test_waiting_ends_with_its_bound_or_the_deadline() -> None:
    """A request that waits too long is 503, one whose own deadline is nearer 504."""
    with (
        Backend("a", script=Script(delay_s=2.0)) as backend,
        running((route(max_in_flight=1, queue_timeout_s=0.3),), (pool(backend.url),)) as gateway,
        gateway.connect() as first,
        gateway.connect() as second,
        gateway.connect() as third,
    ):
        first.send(infer())
        until(lambda: len(backend.seen) == 1, "the first is at the backend")
        second.send(infer())
        third.send(infer(extra=b"x-sluice-timeout-ms: 100\r\n"))
        assert third.answer().status == 504
        assert second.answer().status == 503
        assert first.answer().status == 200
        gateway.settle()


def test_a_client_that_leaves_the_line_costs_nothing() -> None:
    """It counts as cancelled, never reaches the backend, and its memory is given back."""
    with (
        Backend("a", script=SLOW) as backend,
        running((route(max_in_flight=1, queue_timeout_s=10),), (pool(backend.url),)) as gateway,
        gateway.connect() as first,
    ):
        first.send(infer(test_id="first"))
        until(lambda: len(backend.seen) == 1, "the first is at the backend")
        with gateway.connect() as leaver:
            leaver.send(infer(test_id="leaver"))
            until(lambda: gateway.report().buffered_bytes == 4, "it waits")
        until(lambda: gateway.outcome(Outcome.CANCELLED) == 1, "it left")
        assert first.answer().status == 200
        gateway.settle()
        assert [seen.test_id for seen in backend.seen] == ["first"]


def test_a_long_body_waits_with_its_reading_paused() -> None:
    """An upload of 8 MB that has to wait arrives whole, and the worker holds little of it meanwhile."""
    body = bytes(8 << 20)
    with (
        Backend("a") as backend,
        running((route(max_in_flight=1, queue_timeout_s=30, timeout_s=30),), (pool(backend.url),)) as gateway,
        gateway.connect() as first,
        gateway.connect(timeout_s=30) as second,
    ):
        first.send(infer(extra=Script(delay_s=1.0).header()))
        until(lambda: len(backend.seen) == 1, "the first is at the backend")
        second.send(infer(body))
        assert first.answer().status == 200
        assert json.loads(second.answer().body)["length"] == len(body)
        gateway.settle()


def test_memory_above_the_ceiling_sheds_instead_of_growing() -> None:
    """A worker above its ceiling answers 503 to inferences and still answers health."""
    with (
        Backend("a") as backend,
        running((route(),), (pool(backend.url),), Limits(max_rss_bytes=1 << 20)) as gateway,
        gateway.connect() as wire,
    ):
        until(gateway.report, "it has weighed itself")
        wire.send(infer())
        answer = wire.answer()
        assert (answer.status, b"buffers are full" in answer.body) == (503, True)
        assert gateway.get("/v2/health/live").status_code == 200
        gateway.settle()


def test_an_adaptive_limit_keeps_serving() -> None:
    """A route with a limit that follows latency serves all of a load that it can take."""
    with (
        Backend("a") as backend,
        running((route(adaptive=Adaptive(), max_in_flight=64),), (pool(backend.url),)) as gateway,
        gateway.connect() as wire,
    ):
        for _ in range(300):
            wire.send(infer())
            assert wire.answer().status == 200
        gateway.settle()
