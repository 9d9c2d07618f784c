"""Slow and silent peers cost a bounded amount of memory and time."""

import socket
import time
from collections.abc import Iterator

import pytest

from gateway.config import Limits
from tests.wire.backend import Backend, Script, pattern
from tests.wire.client import Wire
from tests.wire.gateway import Gateway, decoded, infer, pool, route, running, until

_LIMITS = Limits(
    head_timeout_s=1.0, body_timeout_s=1.0, idle_timeout_s=1.0, write_timeout_s=1.5, linger_s=0.5, max_in_flight=50
)


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    """A backend for all of them."""
    with Backend("a") as backend:
        yield backend


@pytest.fixture(scope="module")
def impatient(backend: Backend) -> Iterator[Gateway]:
    """A worker whose time limits are about a second."""
    with running((route(),), (pool(backend.url),), _LIMITS) as gateway:
        yield gateway


def _gone(gateway: Gateway) -> None:
    """Waits until the worker holds no client connection."""
    until(lambda: gateway.report().connections == 0, "every connection is gone")
    gateway.settle()


def _send_for_ever(wire: Wire, data: bytes) -> int:
    """Sends the same again and again; how many bytes were taken before the gateway stopped."""
    sent = 0
    try:
        while sent < 400_000_000:
            sent += wire.socket.send(data)
    except (TimeoutError, ConnectionError):
        pass
    return sent


def _drip(wire: Wire, pause_s: float, count: int) -> None:
    """Sends single bytes; the pauses are what is tested."""
    for _ in range(count):
        time.sleep(pause_s)
        wire.send(b"x")


def test_reader_that_never_reads_a_long_answer(impatient: Gateway, backend: Backend) -> None:
    """A gigabyte for a client that takes nothing stays with the backend, and the client is cut off."""
    before = impatient.rss()
    with impatient.connect(receive_buffer=4096) as wire:
        wire.send(infer(extra=Script(size=1 << 30).header()))
        until(lambda: impatient.report().in_flight == 1, "the answer is under way")
        assert impatient.rss() - before < 12 << 20
        _gone(impatient)
    assert impatient.rss() - before < 12 << 20


def test_reader_that_never_reads_a_short_answer(impatient: Gateway) -> None:
    """An answer that fits into the write buffer holds its connection no longer than a long one."""
    with impatient.connect(receive_buffer=4096) as wire:
        wire.send(infer(extra=Script(size=4_000_000).header()))
        _gone(impatient)
    with impatient.connect(receive_buffer=4096) as wire:
        wire.send(infer(extra=Script(size=3_500_000).header() + b"Connection: close\r\n"))
        _gone(impatient)


def test_flood_of_pipelined_requests_without_reading(impatient: Gateway) -> None:
    """A client that sends requests for ever and reads no answer fills its own buffers, not the gateway's."""
    before = impatient.rss()
    request = b"GET /v2/models/none HTTP/1.1\r\nHost: g\r\n\r\n" * 500
    with impatient.connect(timeout_s=0.5, receive_buffer=4096) as wire:
        assert _send_for_ever(wire, request) < 100_000_000
        assert impatient.rss() - before < 24 << 20
        _gone(impatient)


def test_pipelined_long_answers_without_reading(impatient: Gateway, backend: Backend) -> None:
    """The next request of a client that does not read is not begun before it reads."""
    backend.seen.clear()
    before = impatient.rss()
    request = infer(extra=Script(size=8_000_000).header())
    with impatient.connect(receive_buffer=4096) as wire:
        wire.send(request * 100)
        until(lambda: impatient.report().in_flight == 1, "the first is under way")
        assert impatient.rss() - before < 24 << 20
        _gone(impatient)
    assert len(backend.seen) < 3


def test_pipelined_long_answers_for_a_slow_reader(impatient: Gateway) -> None:
    """A client that reads slowly but steadily gets all its answers whole and in order."""
    sizes = [3_000_000 + i for i in range(6)]
    with impatient.connect(receive_buffer=65_536) as wire:
        wire.send(b"".join(infer(extra=Script(size=size).header()) for size in sizes))
        for size in sizes:
            assert wire.answer().body == pattern(0, size)


def test_body_that_drips(impatient: Gateway, backend: Backend) -> None:
    """A short body has its time as a whole; a long one may take longer as long as it moves, in more than bytes."""
    backend.seen.clear()
    with impatient.connect() as wire:
        wire.send(infer(b"x" * 100)[:-100])
        with pytest.raises(ConnectionError):
            _drip(wire, 0.2, 50)
    assert not backend.seen
    with impatient.connect() as wire:
        wire.send(infer(b"x" * 110_000)[:-40_000])
        for _ in range(8):
            time.sleep(0.25)
            wire.send(b"x" * 5000)
        assert decoded(wire.answer().body)["length"] == 110_000
    with impatient.connect() as wire:
        wire.send(infer(b"x" * 110_000)[:-40_000])
        with pytest.raises(ConnectionError):
            _drip(wire, 0.2, 50)
    _gone(impatient)


def test_long_body_that_stalls(impatient: Gateway) -> None:
    """An upload that stops is answered with 408 and its backend connection is let go."""
    with impatient.connect() as wire:
        wire.send(infer(b"x" * 200_000)[:-1])
        assert wire.answer().status == 408
        assert wire.end() == "eof"
    _gone(impatient)


def test_heads_that_drip(impatient: Gateway) -> None:
    """Hundreds of clients that never finish a head are answered with 408 and gone, while others are served."""
    wires = [impatient.connect() for _ in range(300)]
    for wire in wires:
        wire.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: g\r\nx-")
    with impatient.connect() as healthy:
        healthy.send(infer())
        assert healthy.answer().status == 200
    for wire in wires:
        assert wire.answer().status == 408
        assert wire.end() == "eof"
        wire.socket.close()
    _gone(impatient)


def test_idle_connections_are_closed(impatient: Gateway) -> None:
    """One that was used and one that never was both end in order after the idle time."""
    with impatient.connect() as fresh, impatient.connect() as used:
        used.send(infer())
        used.answer()
        assert fresh.end() == "eof"
        assert used.end() == "eof"
    _gone(impatient)


def test_refusal_reaches_a_client_in_full_flow(impatient: Gateway) -> None:
    """A client that is refused while it sends megabytes can still read why: nothing resets its connection."""
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: g\r\nHost: g\r\nContent-Length: 8000000\r\n\r\n"
    for _ in range(20):
        with impatient.connect() as wire:
            wire.send(head + b"x" * 8_000_000)
            assert wire.answer().status == 400
            assert wire.end() == "eof"


def test_shed_upload_reaches_its_client(backend: Backend) -> None:
    """A long upload that is shed gets its 503 with Retry-After, and its connection lives on."""
    with (
        running((route(max_in_flight=1, max_queued=0),), (pool(backend.url),), _LIMITS) as gateway,
        gateway.connect() as busy,
    ):
        busy.send(infer(extra=Script(hold=True).header()))
        until(lambda: backend.held == 1, "the only slot is taken")
        with gateway.connect() as wire:
            wire.send(infer(b"x" * 5_000_000))
            answer = wire.answer()
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            backend.release()
            busy.answer()
            wire.send(infer(test_id="next"))
            assert decoded(wire.answer().body)["id"] == "next"


def test_many_idle_connections_are_small(backend: Backend) -> None:
    """Two thousand idle connections cost some kilobytes each, and leave nothing behind."""
    with running((route(),), (pool(backend.url),)) as gateway:
        before, descriptors = gateway.rss(), gateway.descriptors()
        crowd = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(2000)]
        until(lambda: gateway.report().connections == 2000, "all are accepted")
        assert gateway.rss() - before < 2000 * 10_000
        for one in crowd:
            one.close()
        until(lambda: gateway.report().connections == 0, "all are gone")
        assert gateway.descriptors() <= descriptors + 2


def test_unneeded_bodies_are_not_kept(impatient: Gateway) -> None:
    """Bodies of requests that need none are read away, not gathered."""
    before = impatient.rss()
    head = b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\nContent-Length: 40000000\r\n\r\n"
    with impatient.connect() as wire:
        wire.send(head + b"x" * 40_000_000)
        assert wire.answer("GET").status == 200
        assert impatient.rss() - before < 12 << 20


def test_full_buffers_shed(backend: Backend) -> None:
    """With the bound on held bodies reached, more are shed with 503, and it comes back when they are answered."""
    limits = Limits(max_buffered_bytes=200_000, linger_s=0.5)
    with running((route(),), (pool(backend.url),), limits) as gateway:
        wires = [gateway.connect() for _ in range(8)]
        for wire in wires:
            wire.send(infer(b"x" * 60_000, extra=Script(hold=True).header()))
        until(lambda: backend.held == 3, "three fit")
        until(
            lambda: sum(count for _, code, count in gateway.report().faults if code == "shed_memory") == 5, "five not"
        )
        backend.release()
        statuses = sorted(wire.answer().status for wire in wires)
        assert statuses == [200] * 3 + [503] * 5
        gateway.settle()
        wires[0].send(infer(b"x" * 60_000))
        assert wires[0].answer().status == 200
        for wire in wires:
            wire.socket.close()


def test_a_crowd_of_pieces_is_shed(backend: Backend) -> None:
    """Requests that stay incomplete fill their bound and no more; whoever comes whole is served all the while."""
    limits = Limits(max_buffered_bytes=1_000_000, linger_s=0.5)
    with running((route(),), (pool(backend.url),), limits) as gateway:
        piece = infer(b"x" * 60_000)[:-1]
        wires = [gateway.connect() for _ in range(200)]
        for wire in wires:
            wire.send(piece)
        until(lambda: gateway.report().connections < 150, "some are turned away")
        assert 4 << 20 < gateway.report().buffered_bytes <= 8 << 20
        with gateway.connect() as healthy:
            healthy.send(infer(b"x" * 1000))
            assert healthy.answer().status == 200
        refused = wires[-1].answer()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        for wire in wires:
            wire.socket.close()
        gateway.settle()


def test_disappearing_readers(impatient: Gateway, backend: Backend) -> None:
    """Clients that leave in the middle of a long answer free the backend connection at once."""
    for _ in range(20):
        with impatient.connect(receive_buffer=4096) as wire:
            wire.send(infer(extra=Script(size=50_000_000).header()))
            wire.socket.recv(1000)
            wire.reset()
    _gone(impatient)
    until(lambda: backend.connections <= 2, "the backend's connections are gone")


def test_truncated_upload_never_looks_whole(impatient: Gateway, backend: Backend) -> None:
    """A client that leaves in the middle of an upload leaves an incomplete request at the backend, too."""
    backend.seen.clear()
    with impatient.connect() as wire:
        wire.send(infer(b"x" * 300_000)[:-100_000])
        until(lambda: impatient.report().in_flight == 1, "the upload is under way")
        wire.reset()
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
    with impatient.connect() as wire:
        wire.send(head + b"30d40\r\n" + b"x" * 200_000 + b"\r\n")
        until(lambda: impatient.report().in_flight == 1, "the upload is under way")
        wire.reset()
    with impatient.connect() as wire:
        wire.send(infer(b"x" * 100)[:-10])
        wire.socket.close()
    _gone(impatient)
    until(lambda: len(backend.seen) == 2, "the backend noticed both")
    assert not any(seen.complete for seen in backend.seen)
