"""More requests than slots: who waits, who is turned away, and that nothing is lost over it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.config import Limits
from gateway.core.route import Adaptive
from gateway.telemetry.records import Outcome
from tests.wire.backend import Backend, Script
from tests.wire.client import Wire
from tests.wire.gateway import Gateway, infer, pool, route, running, until

HOLD = Script(hold=True).header()


@contextmanager
def busy(**settings: Any) -> Iterator[tuple[Gateway, Backend, Wire]]:
    """A gateway whose route has one slot, which a request holds that the backend does not answer yet."""
    wanted = {"max_in_flight": 1, "queue_timeout_s": 60.0, **settings}
    with (
        Backend("a") as backend,
        running((route(**wanted),), (pool(backend.url),)) as gateway,
        gateway.connect(timeout_s=60) as first,
    ):
        first.send(infer(test_id="first", extra=HOLD))
        until(lambda: backend.held == 1, "the slot is taken")
        yield gateway, backend, first
        gateway.settle()


def waiting(gateway: Gateway, buffered: int) -> None:
    """Returns once bodies of that many bytes are held by those who wait and by the first request."""
    until(lambda: gateway.report().buffered_bytes == buffered, "it waits")


def test_requests_wait_for_a_slot_and_are_all_answered() -> None:
    """With one slot, requests that come at once are answered one after another, none is shed."""
    with busy() as (gateway, backend, first):
        wires = [gateway.connect(timeout_s=60) for _ in range(5)]
        for number, wire in enumerate(wires):
            wire.send(infer(test_id=f"id-{number}"))
        waiting(gateway, 12)
        backend.release()
        assert first.answer().status == 200
        for number, wire in enumerate(wires):
            with wire:
                answer = wire.answer()
                assert (answer.status, json.loads(answer.body)["id"]) == (200, f"id-{number}")
        gateway.settle()
        assert gateway.outcome(Outcome.OK) == 6


def test_a_full_line_sheds_and_says_when_to_come_back() -> None:
    """One slot, one place in line: the third request is 503 with Retry-After at once."""
    with busy(max_queued=1) as (gateway, backend, first):
        with gateway.connect(timeout_s=60) as second, gateway.connect() as third:
            second.send(infer())
            waiting(gateway, 4)
            third.send(infer())
            shed = third.answer()
            assert (shed.status, shed.headers["retry-after"]) == (503, "1")
            backend.release()
            assert (first.answer().status, second.answer().status) == (200, 200)
        gateway.settle()
        assert gateway.outcome(Outcome.SHED) == 1


def test_priority_goes_first() -> None:
    """Of those who wait, the one with priority 1 is served next, by header or by its own V2 parameter."""
    body = b'{"parameters":{"priority":2}}'
    with (
        busy() as (gateway, backend, first),
        gateway.connect(timeout_s=60) as plain,
        gateway.connect(timeout_s=60) as header,
        gateway.connect(timeout_s=60) as parameter,
    ):
        plain.send(infer(test_id="plain"))
        waiting(gateway, 4)
        parameter.send(infer(body, test_id="parameter"))
        waiting(gateway, 4 + len(body))
        header.send(infer(test_id="header", extra=b"x-sluice-priority: 1\r\n"))
        waiting(gateway, 6 + len(body))
        backend.release()
        for wire in (first, plain, header, parameter):
            assert wire.answer().status == 200
        assert [seen.test_id for seen in backend.seen] == ["first", "header", "parameter", "plain"]


def test_a_full_line_still_makes_room_for_a_priority() -> None:
    """The body's own priority and the header's take a place in a full line; the one who had it is 503."""
    for urgent in (infer(b'{"parameters":{"priority":1}}'), infer(extra=b"x-sluice-priority: 1\r\n")):
        with busy(max_queued=1) as (gateway, backend, first):
            with gateway.connect(timeout_s=60) as second, gateway.connect(timeout_s=60) as third:
                second.send(infer())
                waiting(gateway, 4)
                third.send(urgent)
                assert second.answer().status == 503
                backend.release()
                assert (first.answer().status, third.answer().status) == (200, 200)
            gateway.settle()


def test_a_request_turned_away_is_told_its_id_and_keeps_its_connection() -> None:
    """The client's request id comes back, `Connection: close` is honoured, and each refusal counts once."""
    with busy(max_queued=0) as (gateway, backend, first):
        with gateway.connect() as other:
            for number in range(3):
                other.send(infer(extra=b"x-request-id: mine-%d\r\n" % number))
                shed = other.answer()
                assert (shed.status, shed.headers["x-request-id"]) == (503, f"mine-{number}")
            other.send(infer(extra=b"Connection: close\r\n"))
            last = other.answer()
            assert (last.status, last.headers["connection"]) == (503, "close")
        backend.release()
        assert first.answer().status == 200
        gateway.settle()
        assert gateway.outcome(Outcome.SHED) == 4


def test_waiting_ends_with_its_bound() -> None:
    """A request that waits longer than the queue's bound is 503."""
    with busy(queue_timeout_s=0.2) as (gateway, backend, first):
        with gateway.connect() as second:
            second.send(infer())
            assert second.answer().status == 503
        backend.release()
        assert first.answer().status == 200


def test_waiting_ends_with_the_deadline() -> None:
    """A request whose own deadline comes before its turn is 504."""
    with busy() as (gateway, backend, first):
        with gateway.connect() as second:
            second.send(infer(extra=b"x-sluice-timeout-ms: 100\r\n"))
            assert second.answer().status == 504
        backend.release()
        assert first.answer().status == 200


def test_a_client_that_leaves_the_line_costs_nothing() -> None:
    """It counts as cancelled, never reaches the backend, and its memory is given back."""
    with busy() as (gateway, backend, first):
        with gateway.connect() as leaver:
            leaver.send(infer(test_id="leaver"))
            waiting(gateway, 4)
        until(lambda: gateway.outcome(Outcome.CANCELLED) == 1, "it left")
        backend.release()
        assert first.answer().status == 200
        gateway.settle()
        assert [seen.test_id for seen in backend.seen] == ["first"]


def test_a_long_body_waits_with_its_reading_paused() -> None:
    """An upload of 8 MB that has to wait arrives whole, and the worker holds little of it meanwhile."""
    body = bytes(8 << 20)
    with busy() as (gateway, backend, first), gateway.connect(timeout_s=60) as second:
        held = gateway.rss()
        second.send(infer(body)[: 1 << 20])
        until(lambda: gateway.report().buffered_bytes > 2, "a part of it is held")
        assert gateway.rss() - held < 4 << 20
        backend.release()
        second.send(infer(body)[1 << 20 :])
        assert first.answer().status == 200
        assert json.loads(second.answer().body)["length"] == len(body)


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
