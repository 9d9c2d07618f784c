"""Whatever a backend does, its client gets a valid answer or a closed connection, and the next request is served."""

import contextlib

import pytest

from gateway.config import Limits
from gateway.core.pool import Ejection
from gateway.telemetry.records import Outcome
from tests.wire.backend import Backend, Script, pattern, until_asked
from tests.wire.backend_faults import AFTER, BEFORE, ODD
from tests.wire.client import ClosedError
from tests.wire.gateway import Gateway, decoded, infer, pool, route, running, until


@pytest.mark.parametrize("name", BEFORE)
def test_fault_before_anything_was_passed_on(gateway: Gateway, backend: Backend, name: str) -> None:
    """It becomes one 502 or 504 in Triton's error shape after one attempt, and the next request is served."""
    script, status = BEFORE[name]
    limit = b"x-sluice-timeout-ms: 300\r\n" if status == 504 else b""
    backend.queue.append(script)  # it would not fit into a request's head
    with gateway.connect() as wire:
        wire.send(infer(name="once", extra=limit))
        answer = wire.answer()
        assert answer.status == status
        assert decoded(answer.body)["error"]
        assert len(backend.seen) == 1
        wire.send(infer(name="once", test_id="next"))
        assert decoded(wire.answer().body)["id"] == "next"


@pytest.mark.parametrize("name", AFTER)
def test_fault_inside_the_answer(gateway: Gateway, backend: Backend, name: str) -> None:
    """The client sees an incomplete answer, never a complete wrong one, and there is no second attempt."""
    with gateway.connect() as wire:
        wire.send(infer(extra=AFTER[name].header() + b"x-sluice-timeout-ms: 400\r\n"))
        with pytest.raises(ClosedError):
            wire.answer()
    assert len(backend.seen) == 1
    with gateway.connect() as wire:
        wire.send(infer(test_id="next"))
        assert decoded(wire.answer().body)["id"] == "next"


@pytest.mark.parametrize("name", ODD)
def test_odd_answer_is_passed_on_whole(gateway: Gateway, backend: Backend, name: str) -> None:
    """Twice in a row on one client connection the body arrives unchanged."""
    with gateway.connect() as wire:
        for _ in range(2):
            wire.send(infer(extra=ODD[name].header()))
            answer = wire.answer()
            assert answer.status == 200
            assert answer.body == pattern(0, len(answer.body))
            assert len(answer.body) >= 256
            assert "trailer" not in answer.headers


def test_empty_answers_have_no_body(gateway: Gateway) -> None:
    """204 and 304 end with their head whatever length they claim, and the connection goes on."""
    with gateway.connect() as wire:
        for raw in (
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ):
            wire.send(infer(extra=Script(raw=raw).header()))
            answer = wire.answer()
            assert answer.status == int(raw[9:12])
            assert answer.body == b""
            if answer.status == 204:
                assert "content-length" not in answer.headers  # RFC 9110 section 8.6


def test_what_ends_at_this_hop_is_not_passed_on(gateway: Gateway) -> None:
    """Fields about the backend's own connection, also those that it names in Connection, stay there; others come."""
    fields = ["Connection: x-private, keep-alive", "X-Private: 1", "Keep-Alive: timeout=5", "Upgrade: h2c"]
    fields += ["Proxy-Connection: close", "Trailer: x-sum", "X-Public: 1"]
    with gateway.connect() as wire:
        wire.send(infer(extra=Script(headers=fields).header()))
        answer = wire.answer()
        assert (answer.status, answer.headers["x-public"]) == (200, "1")
        gone = {"connection", "x-private", "keep-alive", "upgrade", "proxy-connection", "trailer"}
        assert not gone & answer.headers.keys()
        wire.send(infer())
        assert wire.answer().status == 200


def test_surplus_never_meets_the_next_request(gateway: Gateway, backend: Backend) -> None:
    """A backend that sends a second, unasked answer loses its connection; nobody receives that answer."""
    forged = 'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"id": "forged"}'
    with gateway.connect() as wire:
        for i in range(20):
            wire.send(infer(test_id=f"a{i}", extra=Script(extra=forged).header()) + infer(test_id=f"b{i}"))
            assert decoded(wire.answer().body)["id"] == f"a{i}"
            assert decoded(wire.answer().body)["id"] == f"b{i}"


def test_stale_connection_is_retried_unseen(gateway: Gateway, backend: Backend) -> None:
    """An idle connection that the backend closes just as it is reused costs the client nothing."""
    with gateway.connect() as wire:
        for i in range(10):
            wire.send(infer(test_id=f"a{i}", extra=Script(then="drop_next").header()))
            assert decoded(wire.answer().body)["id"] == f"a{i}"
            wire.send(infer(test_id=f"b{i}"))
            assert decoded(wire.answer().body)["id"] == f"b{i}"


def test_stale_connections_never_eject_a_backend() -> None:
    """Connections that die idle say nothing about a backend's health."""
    with Backend("a") as one, Backend("b") as two:
        fleet = pool(one.url, two.url, ejection=Ejection(consecutive=2))
        with running((route(),), (fleet,)) as gateway, gateway.connect() as wire:
            for _ in range(20):
                wire.send(infer(extra=Script(then="drop_next").header()))
                assert wire.answer().status == 200
            assert sum(backend.ejections for backend in gateway.settle().backends) == 0


def test_error_in_two_pieces_is_judged_whole(backend: Backend) -> None:
    """A replica that is shutting down is left for another one, even when its answer arrives in pieces."""
    fleet = contextlib.ExitStack()
    with fleet:
        other = fleet.enter_context(Backend("b"))
        gateway = fleet.enter_context(running((route(),), (pool(backend.url, other.url),)))
        with gateway.connect() as wire:
            body = '{"error":"Request for unknown model: \'model\' is not found"}'
            gone = Script(status=400, body=body, chunk=10, drip_s=0.002)
            backend.script = other.script = Script()
            backend.seen.clear()
            for i in until_asked(backend):
                backend.script = gone
                wire.send(infer(test_id=str(i)))
                answer = wire.answer()
                assert answer.status == 200
                assert decoded(answer.body)["backend"] == "b"
            gateway.settle()


def test_streamed_error_event_counts_as_failure(gateway: Gateway) -> None:
    """An error inside an event stream whose status is 200 is an upstream error, wherever the pieces are cut."""
    before = gateway.outcome(Outcome.UPSTREAM_ERROR)
    events = 'data: {"text":"one"}\n\ndata: {"error":"boom"}\n\n'
    sizes = [1000, 1, 3, 29]
    for size in sizes:
        script = Script(body=events, framing="chunked", chunk=size, headers=["Content-Type: text/event-stream"])
        with gateway.connect() as wire:
            wire.send(infer(extra=script.header()).replace(b"/infer", b"/generate_stream"))
            assert wire.answer().body.decode() == events
    assert gateway.outcome(Outcome.UPSTREAM_ERROR) - before == len(sizes)


def test_events_are_passed_on_as_they_come(gateway: Gateway) -> None:
    """The first event of a slow stream is there long before the last."""
    script = Script(body="data: 1\n\n" * 4, framing="chunked", chunk=9, drip_s=0.2)
    with gateway.connect() as wire:
        wire.send(infer(extra=script.header()).replace(b"/infer", b"/generate_stream"))
        data = b""
        while b"data: 1" not in data:
            data += wire.socket.recv(4096)
        assert data.count(b"data: 1") == 1
        while b"\r\n0\r\n\r\n" not in data:
            data += wire.socket.recv(4096)
        assert data.count(b"data: 1") == 4


def test_early_answer_to_a_large_upload(gateway: Gateway, backend: Backend) -> None:
    """A backend that answers before it has the body ends the upload, and its answer reaches a client that sends on."""
    script = Script(read=1000, status=413, body='{"error":"too large"}', then="hang")
    body = b"x" * 20_000_000
    with gateway.connect() as wire:
        wire.send(infer(body, extra=script.header()))
        assert wire.answer().status == 413
        wire.send(infer(test_id="next"))
        assert decoded(wire.answer().body)["id"] == "next"


def test_backend_that_never_reads_stops_the_client() -> None:
    """The upload stalls instead of gathering in the gateway's memory, and the deadline ends it."""
    with Backend("a") as backend:
        backend.script = Script(read=1000, cut=0, then="hang")
        with running((route(timeout_s=1.0),), (pool(backend.url),)) as gateway, gateway.connect(timeout_s=0.5) as wire:
            before = gateway.rss()
            with pytest.raises(TimeoutError):
                wire.send(infer(b"x" * 200_000_000))
            assert gateway.rss() - before < 20 << 20
            wire.socket.settimeout(10)
            assert wire.answer().status == 504
            gateway.settle()


def test_connection_that_was_paused_serves_on() -> None:
    """An answer larger than a slow client's buffers leaves its backend connection as fit as any other."""
    size = 12_000_000
    with Backend("a") as backend, running((route(),), (pool(backend.url, max_idle=1),)) as gateway:
        for _ in range(4):
            with gateway.connect(receive_buffer=4096) as slow:
                slow.send(infer(extra=Script(size=size).header()))
                until(lambda: gateway.report().in_flight == 1, "the answer is under way")
                assert len(slow.answer().body) == size
            with gateway.connect() as wire:
                wire.send(infer(test_id="next", extra=b"x-sluice-timeout-ms: 2000\r\n"))
                assert wire.answer().status == 200
        gateway.settle()


def test_resetting_listener_is_a_connect_failure() -> None:
    """A backend that accepts and resets at once gives an answer each time, never a request without an end."""
    with Backend("a") as backend:
        backend.on_connect = "reset"
        with running((route(),), (pool(backend.url),)) as gateway:
            for _ in range(100):
                with gateway.connect() as wire:
                    wire.send(infer())
                    assert wire.answer().status in {502, 503}
            backend.on_connect = "serve"
            with gateway.connect() as wire:
                wire.send(infer())
                assert wire.answer().status == 200
            gateway.settle()


def test_lingering_slot() -> None:
    """Triton works on for a client that left: its slot stays taken until the answer is there, or a bound has passed."""
    with Backend("a") as backend:
        limits = Limits(linger_s=2.0)
        with running((route(max_in_flight=1, max_queued=0),), (pool(backend.url),), limits) as gateway:
            with gateway.connect() as wire:
                wire.send(infer(extra=Script(hold=True).header()))
                until(lambda: backend.held, "the request is at the backend")
            until(lambda: gateway.outcome(Outcome.CANCELLED) == 1, "the client is gone")
            assert gateway.report().in_flight == 1
            with gateway.connect() as wire:
                wire.send(infer())
                assert wire.answer().status == 503
            backend.release()
            gateway.settle()
            with gateway.connect() as wire:
                wire.send(infer(extra=Script(cut=0, then="hang").header()))
                until(lambda: len(backend.seen) == 2, "the request is at the backend")
            until(lambda: gateway.report().in_flight == 1, "the slot lingers")
            gateway.settle()
            with gateway.connect() as wire:
                wire.send(infer())
                assert wire.answer().status == 200
