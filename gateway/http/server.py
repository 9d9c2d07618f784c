"""The client's side of the data plane: one connection, its requests one after another.

Small requests that arrive whole take a path without state: find the head's end, look the head up, hand over. All
else (long bodies, chunks, pipelining, slow clients) is a small state machine around `Phase`.
"""

import asyncio
import contextlib
import re
import socket
import struct
from enum import Enum, auto
from time import perf_counter
from typing import Protocol, cast

from gateway import errors
from gateway.config import Limits
from gateway.errors import Fault
from gateway.http.chunked import ChunkedDecoder, ChunkError
from gateway.http.head import Heads, RequestHead

WRITE_HIGH = 1 << 20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PENDING = 64 << 10
_MAX_DRAIN = 64 << 20
_LINGER_S = 2.0
_DRAIN_IDLE_S = 1.0
_RESET = struct.pack("ii", 1, 0)
_EMPTY_LINES = re.compile(rb"(?:\r\n)++")


class Phase(Enum):
    """Where a connection is."""

    IDLE = auto()  # between requests
    HEAD = auto()  # inside a head
    GATHER = auto()  # inside a small body that is handed over whole
    STREAM = auto()  # inside a body that is handed over in slices
    WAIT = auto()  # the request is complete, its response is not
    DRAIN = auto()  # the response is complete, its request is not: discard the rest
    LINGER = auto()  # nothing more is answered: discard what comes until the client has read the last answer
    CLOSED = auto()


class Exchange(Protocol):
    """One request on its way through the data plane, as its connection sees it."""

    def body_data(self, data: bytes | memoryview) -> None:
        """A slice of the request's body, valid only during the call unless it is bytes."""

    def body_end(self) -> None:
        """The request is complete."""

    def body_failed(self, fault: Fault) -> None:
        """The rest of the request will not come (malformed or too slow); answer with the fault if still possible."""

    def client_gone(self) -> None:
        """The client closed its connection; nothing can be answered any more."""

    def client_paused(self, paused: bool) -> None:
        """The client's write buffer is above (True) or again below (False) its bound."""


class Service(Protocol):
    """What the connections of a worker share."""

    limits: Limits
    heads: Heads
    connections: "set[ServerConnection]"
    draining: bool

    def begin(self, connection: "ServerConnection", head: RequestHead, body: bytes | None) -> Exchange:
        """Takes a request: complete with its body, or with slices to follow when `body` is None."""

    def refusal(self, head: RequestHead) -> Fault | None:
        """Why a request would be refused whatever its body, if so."""

    def fault_response(self, fault: Fault, connection_header: bytes, head_only: bool) -> bytes:
        """A complete response for a fault."""

    def opened(self, connection: "ServerConnection") -> None:
        """A client connected."""

    def closed(self, connection: "ServerConnection") -> None:
        """Its connection ended."""


class ServerConnection(asyncio.Protocol):
    """Server side of HTTP/1.1 over one transport.

    Attributes:
        transport: the client's transport.
        keep_alive: whether another request may follow the present one.
        since: when the present phase began or last made progress (perf_counter seconds).
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_exchange",
        "_head",
        "_left",
        "_looping",
        "_memo",
        "_parts",
        "_reading",
        "_received",
        "_service",
        "_until",
        "_writing_since",
        "keep_alive",
        "phase",
        "since",
        "transport",
    )

    def __init__(self, service: Service) -> None:
        self._service = service
        self._memo = service.heads.requests
        self.transport: asyncio.Transport | None = None
        self.phase = Phase.IDLE
        self.since = perf_counter()
        self.keep_alive = True
        self._buffer = b""
        self._exchange: Exchange | None = None
        self._head: RequestHead | None = None
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self._parts: list[bytes] = []
        self._received = 0
        self._looping = False
        self._reading = True
        self._writing_since = 0.0
        self._until = 0.0  # end of lingering

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's class is no subclass of asyncio's
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._service.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when the connection is gone."""
        self.phase = Phase.CLOSED
        self.transport = None
        exchange, self._exchange = self._exchange, None
        self._service.closed(self)
        if exchange is not None:
            exchange.client_gone()

    def eof_received(self) -> bool:
        """A client that closes its sending side is taken as gone, as nginx and Envoy do."""
        return False

    def pause_writing(self) -> None:
        """Called by the loop when the write buffer is above its bound."""
        self._writing_since = perf_counter()
        if self._exchange is not None:
            self._exchange.client_paused(True)

    def resume_writing(self) -> None:
        """Called by the loop when the write buffer has drained."""
        self._writing_since = 0.0
        if self._exchange is not None:
            self._exchange.client_paused(False)
        elif self.phase is Phase.IDLE:  # it waited in `finish` for this
            self.resume()
            if self._buffer and not self._looping:
                rest, self._buffer = self._buffer, b""
                self._advance(rest)

    def data_received(self, data: bytes) -> None:
        """Called by the loop with what the client sent."""
        phase = self.phase
        if phase is Phase.IDLE:
            self._advance(data)
        elif phase is Phase.HEAD:
            data, self._buffer = self._buffer + data, b""
            self._advance(data)
        elif phase is Phase.WAIT:
            self._buffer += data
            if len(self._buffer) > _PENDING:
                self.pause()
        elif phase is Phase.LINGER:
            self.since = perf_counter()
            self._received += len(data)
            if self._received > _MAX_DRAIN:
                self.abort()
        elif phase is not Phase.CLOSED:
            if phase is Phase.STREAM:  # a short body, or one that nobody needs, has to come within its time as a whole
                self.since = perf_counter()
            rest = self._body(data)
            if rest:
                self._advance(rest)

    # reading

    def pause(self) -> None:
        """Stops reading from the client."""
        if self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if not self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def _advance(self, data: bytes) -> None:
        """Takes complete requests out of `data` until one has to wait; `_buffer` is empty when it is called."""
        service = self._service
        while True:
            end = data.find(b"\r\n\r\n") + 4
            raw = data[:end]
            head = self._memo.get(raw)
            if head is None:
                parsed = self._slow_head(data, end)
                if parsed is None:
                    return
                head, data, end = parsed
            length = head.content_length
            if head.chunked or head.expects or len(data) < end + length:
                data = self._start_body(head, data, end)
                if not data:
                    return
                continue
            if length > 0:
                stop = end + length
                body = data[end:stop]
                self._buffer = data[stop:]
            else:
                body = b""
                self._buffer = data[end:]
            self._head = head
            self.keep_alive = head.keep_alive
            self.phase = Phase.WAIT
            self._looping = True
            exchange = service.begin(self, head, body)
            self._looping = False
            if self.phase is Phase.WAIT:
                self._exchange = exchange
                return
            if self.phase is not Phase.IDLE or not self._buffer or self._writing_since:
                return
            data, self._buffer = self._buffer, b""

    def _slow_head(self, data: bytes, end: int) -> tuple[RequestHead, bytes, int] | None:
        """Parses a head that is not remembered; None when it is incomplete or refused."""
        if empty := _EMPTY_LINES.match(data):  # empty lines before a request are ignored (RFC 9112 section 2.2)
            data = data[empty.end() :]
            end = data.find(b"\r\n\r\n") + 4
        limits = self._service.limits
        if end < 4 or end > limits.max_head_bytes:
            if len(data) <= limits.max_head_bytes:
                if data and self.phase is Phase.IDLE:
                    self.since = perf_counter()
                self.phase = Phase.HEAD if data else Phase.IDLE
                self._buffer = data
                return None
            line = data.find(b"\r\n", 0, limits.max_head_bytes)
            self._head = None
            self.refuse(errors.URI_TOO_LONG if line < 0 else errors.HEADERS_TOO_LARGE)
            return None
        head = self._service.heads.request(data[:end])
        if isinstance(head, Fault):
            self._head = None
            self.refuse(head)
            return None
        return head, data, end

    def _start_body(self, head: RequestHead, data: bytes, end: int) -> bytes:
        """Begins a request whose body is not here whole; returns the next request's bytes once this one is over."""
        service = self._service
        self.keep_alive = head.keep_alive
        self._head = head
        self._received = 0
        self.since = perf_counter()
        if head.expects and len(data) == end:
            fault = service.refusal(head)
            if fault is not None:  # the client still holds its body back: say so and close
                self.refuse(fault)
                return b""
            assert self.transport is not None
            self.transport.write(_CONTINUE)
        self._decoder = ChunkedDecoder() if head.chunked else None
        self._left = head.content_length
        if not head.chunked and head.content_length > service.limits.stream_above_bytes:
            self.phase = Phase.STREAM
            exchange = service.begin(self, head, None)
            if self.phase is Phase.STREAM:
                self._exchange = exchange
        else:
            self.phase = Phase.GATHER
        return self._body(memoryview(data)[end:]) if len(data) > end else b""

    def _body(self, data: bytes | memoryview) -> bytes:
        """Takes in a part of a body; returns the next request's bytes once this one is over."""
        rest = b""
        if self._decoder is not None:
            try:
                pieces: list[memoryview] = self._decoder.feed(data)
            except ChunkError as error:
                self._body_failed(errors.BAD_BODY.but(str(error)))
                return b""
            for piece in pieces:
                self._take(piece)
                if self.phase is Phase.CLOSED or self.phase is Phase.LINGER:
                    return b""
            if not self._decoder.done:
                return b""
            rest = bytes(self._decoder.rest)
        else:
            size = len(data)
            if size > self._left:
                rest = bytes(memoryview(data)[self._left :])
                data = memoryview(data)[: self._left]
                size = self._left
            self._left -= size
            self._take(data)
            if self._left or self.phase is Phase.CLOSED:
                return b""
        self._complete(rest)
        if self.phase is not Phase.IDLE or self._writing_since:
            return b""
        rest, self._buffer = self._buffer, b""
        return rest

    def _take(self, data: bytes | memoryview) -> None:
        self._received += len(data)
        limits = self._service.limits
        if self.phase is Phase.DRAIN:
            if self._received > _MAX_DRAIN:
                self.close()
            return
        if self._received > limits.max_body_bytes:
            self._body_failed(errors.BODY_TOO_LARGE)
            return
        if self.phase is Phase.STREAM:
            assert self._exchange is not None
            self._exchange.body_data(data)
            return
        self._parts.append(bytes(data))
        if self._received > limits.stream_above_bytes:  # only a chunked body can grow this far
            assert self._head is not None
            parts, self._parts = self._parts, []
            self.phase = Phase.STREAM
            exchange = self._service.begin(self, self._head, None)
            if self.phase is Phase.STREAM:
                self._exchange = exchange
                exchange.body_data(b"".join(parts))

    def _complete(self, rest: bytes) -> None:
        """The present request's body has ended."""
        phase, head = self.phase, self._head
        assert head is not None
        self._decoder = None
        if head.header_length > self._received and b"content-encoding" not in head.fields and phase is not Phase.DRAIN:
            self._body_failed(errors.BAD_V2_HEADER.but("Inference-Header-Content-Length is larger than the body"))
            return
        self._buffer = rest
        if phase is Phase.DRAIN:
            self.phase = Phase.IDLE
            if not self.keep_alive:
                self.close()
        elif phase is Phase.STREAM:
            assert self._exchange is not None
            self.phase = Phase.WAIT
            self._exchange.body_end()
        elif phase is Phase.GATHER:
            body = b"".join(self._parts)
            self._parts.clear()
            self.phase = Phase.WAIT
            self._looping = True
            exchange = self._service.begin(self, head, body)
            self._looping = False
            if self.phase is Phase.WAIT:
                self._exchange = exchange

    def _body_failed(self, fault: Fault) -> None:
        """The rest of the request cannot be told from what follows it, or is not wanted."""
        self.keep_alive = False
        if self.phase is Phase.STREAM and self._exchange is not None:
            self._exchange.body_failed(fault)
        elif self.phase is not Phase.DRAIN:  # there the answer has gone out already
            self.refuse(fault)
        if self.phase is Phase.DRAIN:
            self._linger()

    # answering

    @property
    def connection_header(self) -> bytes:
        """The Connection field that the present response needs, as a line or empty."""
        head = self._head
        if not self.keep_alive or self._service.draining:
            self.keep_alive = False
            return b"Connection: close\r\n"
        if head is not None and not head.http11:
            return b"Connection: keep-alive\r\n"
        return b""

    def replace(self, exchange: Exchange) -> None:
        """Another exchange takes over the present request, unless it has answered already."""
        if self.phase in {Phase.WAIT, Phase.STREAM}:
            self._exchange = exchange

    def serves(self, exchange: Exchange) -> bool:
        """Whether that exchange still has this connection."""
        return self._exchange is exchange

    @property
    def head_only(self) -> bool:
        """Whether the present response has no body whatever its head says."""
        return self._head is not None and self._head.method == b"HEAD"

    def write(self, data: bytes | memoryview) -> None:
        """Sends a part of the present response."""
        if self.transport is not None:
            self.transport.write(data)

    def finish(self, data: bytes) -> None:
        """Sends the last part of the present response; the exchange is over."""
        transport = self.transport
        if transport is None:
            return
        if data:
            transport.write(data)
        self._exchange = None
        phase = self.phase
        if phase is Phase.WAIT:
            if not self.keep_alive:
                if self._service.draining:  # its next request may be on the way
                    self._linger()
                else:
                    self.close()
                return
            self.phase = Phase.IDLE
            self.since = perf_counter()
            if self._writing_since:  # nothing more is begun for a client that does not read
                self.pause()
                return
            if not self._reading:
                self.resume()
            if self._buffer and not self._looping:
                rest, self._buffer = self._buffer, b""
                self._advance(rest)
        elif phase is Phase.STREAM:
            # Answered before the request was complete. Closing now would reset the connection under the client's
            # writes and lose the answer (RFC 9112 section 9.6): take in the rest, within a bound.
            self.phase = Phase.DRAIN
            self.since = perf_counter()
            self.resume()

    def refuse(self, fault: Fault) -> None:
        """Answers a request that never became an exchange, and closes."""
        self.keep_alive = False
        if self.transport is not None:
            self.transport.write(self._service.fault_response(fault, b"Connection: close\r\n", self.head_only))
        self._linger()

    def _linger(self) -> None:
        """Ends the connection in order: closing it with bytes unread would reset it, and lose the last answer."""
        self._exchange = None
        self._decoder = None
        self._buffer = b""
        self._parts.clear()
        transport = self.transport
        if transport is None or transport.is_closing() or not transport.can_write_eof():
            self.close()
            return
        self.phase = Phase.LINGER
        self.since = perf_counter()
        self._until = self.since + self._service.limits.body_timeout_s
        self._received = 0
        transport.write_eof()
        self.resume()

    def abort(self) -> None:
        """Resets the connection, so that the client sees an incomplete response as such, whatever marks its end."""
        self.phase = Phase.CLOSED
        self._exchange = None
        if self.transport is not None:
            with contextlib.suppress(OSError):  # it is gone already
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def close(self) -> None:
        """Ends the connection after what was written has gone out."""
        self.phase = Phase.CLOSED
        self.since = perf_counter()
        self._exchange = None
        if self.transport is not None:
            self.transport.close()

    # time

    def check(self, now: float) -> None:
        """Enforces the limits on slow clients; called about once a second."""
        limits, waited = self._service.limits, now - self.since
        phase = self.phase
        if self._writing_since and now - self._writing_since > limits.write_timeout_s:
            if self._exchange is not None:
                self._exchange.client_gone()
            self.abort()
        elif phase is Phase.IDLE:
            if waited > limits.idle_timeout_s:
                self.close()
            elif self._service.draining and waited > _DRAIN_IDLE_S:
                self._linger()
        elif phase is Phase.HEAD:
            if waited > limits.head_timeout_s:
                self.refuse(errors.CLIENT_SLOW)
        elif phase in {Phase.GATHER, Phase.STREAM, Phase.DRAIN}:
            # While the gateway itself has paused reading, the client is not to blame.
            if not self._reading:
                self.since = now
            elif waited > limits.body_timeout_s:
                if phase is Phase.DRAIN:
                    self.abort()
                else:
                    self._body_failed(errors.CLIENT_SLOW)
        elif phase is Phase.LINGER:
            if waited > _LINGER_S or now > self._until:
                self.close()
        elif phase is Phase.CLOSED and waited > limits.write_timeout_s:  # it never took the rest of its answer
            self.abort()
