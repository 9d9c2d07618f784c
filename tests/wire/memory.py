"""The two HTTP parsers without a network: a transport in memory, a service that answers, an owner that counts.

Feeding a connection here is what the event loop does, byte for byte and in any pieces, thousands of times a second.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gateway.config import Limits
from gateway.errors import Fault
from gateway.http.client import UpstreamConnection
from gateway.http.head import Heads, RequestHead, ResponseHead
from gateway.http.partial import Partial
from gateway.http.reply import error_body, reply
from gateway.http.server import ServerConnection
from gateway.http.serving import Exchange


class _Socket:
    """Takes options."""

    def setsockopt(self, *_: object) -> None:
        """Nothing depends on them here."""


class MemoryTransport(asyncio.Transport):
    """Keeps what is written; closes and pauses as a real one does."""

    def __init__(self) -> None:
        super().__init__({"socket": _Socket()})
        self.written = bytearray()
        self.closed = self.eof = self.paused = False

    def write(self, data: Any) -> None:
        """Keeps it."""
        assert not self.eof, "written behind the end"
        if not self.closed:
            self.written += data

    def close(self) -> None:
        """Nothing more is read."""
        self.closed = True

    def abort(self) -> None:
        """The same at once."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def pause_reading(self) -> None:
        """Nothing is fed until reading goes on."""
        self.paused = True

    def resume_reading(self) -> None:
        """Feeding goes on."""
        self.paused = False

    def can_write_eof(self) -> bool:
        """As a socket."""
        return True

    def write_eof(self) -> None:
        """Nothing more is written."""
        self.eof = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Writing is never slow here."""


@dataclass(slots=True)
class Request:
    """One request as the service got it."""

    method: bytes
    target: bytes
    body: bytes
    complete: bool


class _Echo:
    """Answers when its request is complete, at once or when told to."""

    def __init__(self, service: "EchoService", connection: ServerConnection, request: Request) -> None:
        self._service = service
        self._connection: ServerConnection | None = connection
        self.request = request

    def body_data(self, data: bytes | memoryview) -> None:
        assert len(data), "an empty slice would end a chunked request"
        self.request.body += bytes(data)

    def body_end(self) -> None:
        self.request.complete = True
        self._service.finished(self)

    def body_failed(self, fault: Fault) -> None:
        self._answer(fault.status)

    def client_gone(self) -> None:
        self._connection = None

    def client_paused(self, paused: bool) -> None:
        pass

    def answer(self) -> None:
        """Answers with the request's method, target and length."""
        self._answer(200)

    def _answer(self, status: int) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            body = b'"%d"' % len(self.request.body)
            connection.finish(reply(status, body, connection.connection_header, connection.head_only))


class EchoService:
    """What a connection needs of the data plane; answers at once, or when `answer_all` is called."""

    def __init__(self, limits: Limits, at_once: bool = True, heads: Heads | None = None) -> None:
        self.limits = limits
        self.heads = heads or Heads(limits)
        self.connections: set[ServerConnection] = set()
        self.draining = False
        self.idle_grace_s = 1.0
        self.partial = Partial(limits.max_buffered_bytes)
        self.requests: list[Request] = []
        self.refused: list[int] = []
        self._at_once = at_once
        self._waiting: list[_Echo] = []

    def begin(self, connection: ServerConnection, head: RequestHead, body: bytes | None) -> Exchange:
        """Remembers a request; answers it once it is complete."""
        request = Request(head.method, head.target, body or b"", body is not None)
        self.requests.append(request)
        echo = _Echo(self, connection, request)
        if body is not None:
            self.finished(echo)
        return echo

    def finished(self, echo: _Echo) -> None:
        """A request is complete."""
        if self._at_once:
            echo.answer()
        else:
            self._waiting.append(echo)

    def answer_all(self) -> None:
        """Answers all that waits, and what becomes complete by that."""
        while self._waiting:
            self._waiting.pop(0).answer()

    def refusal(self, head: RequestHead) -> Fault | None:
        """Nothing is refused before its body."""
        return None

    def fault_response(self, fault: Fault, connection_header: bytes, head_only: bool) -> bytes:
        """Remembers a refusal."""
        self.refused.append(fault.status)
        return reply(fault.status, error_body(fault.text), connection_header, head_only)

    def opened(self, connection: ServerConnection) -> None:
        """A connection is there."""
        self.connections.add(connection)

    def closed(self, connection: ServerConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)


@dataclass(frozen=True)
class Served:
    """What became of some bytes of a client."""

    requests: tuple[tuple[bytes, bytes, bytes], ...]
    refused: tuple[int, ...]
    answers: bytes
    open: bool


def serve(pieces: Iterable[bytes], limits: Limits, at_once: bool = True, heads: Heads | None = None) -> Served:
    """Feeds a new connection with pieces, one after another, and ends it."""
    service = EchoService(limits, at_once, heads)
    connection = ServerConnection(service)
    transport = MemoryTransport()
    connection.connection_made(transport)
    waiting = list(pieces)
    while waiting:
        while waiting and not transport.closed and not transport.paused:
            connection.data_received(waiting.pop(0))
        service.answer_all()
        if transport.closed:
            break
        assert not transport.paused, "nothing waits, yet nothing is read"
    still_open = not transport.closed and not transport.eof
    connection.connection_lost(None)
    assert not service.connections
    whole = tuple((r.method, r.target, r.body) for r in service.requests if r.complete)
    # Whether a client that asks for it is told to go on depends on how much of its body is here already.
    answers = bytes(transport.written).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return Served(whole, tuple(service.refused), answers, still_open)


@dataclass
class Received:
    """What became of some bytes of a backend: its answer, and what the connection is good for afterwards."""

    status: int = 0
    block: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    ended: str = ""
    released: int = 0
    aborted: bool = False

    # client.Consumer

    def response_complete(self, head: ResponseHead, body: bytes) -> None:
        """Head and body at once."""
        self.response_start(head)
        self.body += body
        self.response_end()

    def response_start(self, head: ResponseHead) -> None:
        """The head."""
        assert not self.status
        self.status, self.block = head.status, head.block

    def response_data(self, data: bytes | memoryview) -> None:
        """A slice."""
        assert self.status
        assert not self.ended
        self.body += data

    def response_end(self) -> None:
        """The end."""
        assert not self.ended
        self.ended = "whole"

    def response_failed(self, fault: Fault) -> None:
        """No end."""
        assert not self.ended
        self.ended = fault.code

    def upstream_paused(self, paused: bool) -> None:
        """Requests are tiny."""


class _Owner:
    def __init__(self) -> None:
        self.released_count = self.closed_count = 0

    def released(self, connection: UpstreamConnection) -> None:
        self.released_count += 1

    def closed(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self.closed_count += 1


def receive(
    pieces: Iterable[bytes], *, head_request: bool = False, then_close: bool = True, heads: Heads | None = None
) -> Received:
    """Sends one request on a new connection and feeds the answer in pieces."""
    owner, transport, found = _Owner(), MemoryTransport(), Received()
    connection = UpstreamConnection(owner, heads or Heads(Limits()), 64 << 10)
    connection.connection_made(transport)
    connection.send(found, b"GET / HTTP/1.1\r\n\r\n", True, head_request)
    for piece in pieces:
        if transport.closed:
            break
        connection.data_received(piece)
    found.released, found.aborted = owner.released_count, transport.closed
    if then_close:
        connection.connection_lost(None)
        assert owner.closed_count == 1
        assert found.ended
    return found


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces, cut at the given places; none is empty."""
    edges = sorted({0, len(data), *(place for place in places if 0 < place < len(data))})
    return [data[a:b] for a, b in pairwise(edges)]
