"""One keep-alive connection to a backend: sends a request, reads its response, says when it is free again."""

import asyncio
from typing import Protocol, cast

from gateway import errors
from gateway.errors import Fault
from gateway.http.chunked import ChunkedDecoder, ChunkError
from gateway.http.head import Heads, ResponseHead
from gateway.http.serving import WRITE_HIGH

_GATHERED = 64 << 10


class Consumer(Protocol):
    """Receives one response. Exactly one of `response_complete`, `response_end`, `response_failed` ends it."""

    __slots__ = ()

    def response_complete(self, head: ResponseHead, body: bytes) -> None:
        """Head and whole body arrived in one piece."""

    def response_start(self, head: ResponseHead) -> None:
        """The head arrived; slices of the body follow."""

    def response_data(self, data: bytes | memoryview) -> None:
        """A slice of the body, valid only during the call unless it is bytes."""

    def response_end(self) -> None:
        """The body ended."""

    def response_failed(self, fault: Fault) -> None:
        """The connection ended or its bytes are no HTTP; nothing more follows."""

    def upstream_paused(self, paused: bool) -> None:
        """The connection's write buffer is above (True) or again below (False) its bound."""


class Owner(Protocol):
    """Takes a connection back."""

    def released(self, connection: "UpstreamConnection") -> None:
        """The exchange on it ended and it can serve another."""

    def closed(self, connection: "UpstreamConnection") -> None:
        """It is gone."""


class UpstreamConnection(asyncio.Protocol):
    """Client side of HTTP/1.1 over one transport.

    Attributes:
        transport: set while connected.
        consumer: who gets the present response; None while idle.
        sent_all: the whole request was handed over; a response before that ends the connection's life.
        got_bytes: something of the present response arrived.
        used: requests sent before the present one.
        idle_since: when it became idle, in the owner's clock.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_decoder",
        "_head",
        "_left",
        "_limit",
        "_memo",
        "_no_body",
        "_parser",
        "_read_paused",
        "_write_paused",
        "consumer",
        "got_bytes",
        "idle_since",
        "owner",
        "sent_all",
        "transport",
        "used",
    )

    def __init__(self, owner: Owner, heads: Heads, max_head_bytes: int) -> None:
        self.owner = owner
        self._parser = heads
        self._memo = heads.responses
        self._limit = max_head_bytes
        self.transport: asyncio.Transport | None = None
        self.consumer: Consumer | None = None
        self.sent_all = True
        self.got_bytes = False
        self.used = 0
        self.idle_since = 0.0
        self._buffer = b""
        self._head: ResponseHead | None = None
        self._left = 0  # bytes of body to come; -1 until the connection closes
        self._decoder: ChunkedDecoder | None = None
        self._no_body = False
        self._read_paused = False
        self._write_paused = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's class is no subclass of asyncio's
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)

    def pause_writing(self) -> None:
        """Called by the loop when the write buffer is above its bound."""
        self._write_paused = True
        if self.consumer is not None:
            self.consumer.upstream_paused(True)

    def resume_writing(self) -> None:
        """Called by the loop when the write buffer has drained."""
        self._write_paused = False
        if self.consumer is not None:
            self.consumer.upstream_paused(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when the connection is gone."""
        self.transport = None
        consumer, self.consumer = self.consumer, None
        self.owner.closed(self)
        if consumer is None:
            return
        if self._head is not None and self._left == -1 and self._decoder is None and exc is None:
            consumer.response_end()  # delimited by the end of the connection (RFC 9112 section 6.3, rule 8)
        else:
            consumer.response_failed(errors.UPSTREAM_CLOSED)

    # requests

    def send(self, consumer: Consumer, data: bytes | memoryview, sent_all: bool, no_body: bool) -> None:
        """Starts a request on an idle connection.

        Args:
            consumer: gets the response.
            data: the head and as much of the body as there is.
            sent_all: `data` is the whole request.
            no_body: the response has no body whatever its head says (HEAD).
        """
        assert self.consumer is None
        assert self.transport is not None
        self.consumer = consumer
        self.sent_all = sent_all
        self.got_bytes = False
        self._no_body = no_body
        self.transport.write(data)

    def write(self, data: bytes | memoryview) -> None:
        """Sends a further slice of the request's body."""
        if self.transport is not None:
            self.transport.write(data)

    def abort(self) -> None:
        """Ends the connection at once; the consumer hears nothing more."""
        self.consumer = None
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """Ends an idle connection in order."""
        if self.transport is not None:
            self.transport.close()

    def pause(self) -> None:
        """Stops reading the response."""
        if not self._read_paused and self.transport is not None and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._read_paused and self.transport is not None and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()

    # responses

    def data_received(self, data: bytes) -> None:
        """Called by the loop with what the backend sent."""
        consumer = self.consumer
        if consumer is None:
            self._poison()  # bytes nobody asked for: never let them meet the next request
            return
        self.got_bytes = True
        if self._head is not None:
            self._on_body(data)
            return
        if self._buffer:
            data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or end > self._limit:
                if end > self._limit or len(data) > self._limit:
                    self._fail(errors.UPSTREAM_INVALID.but("the backend's response head is too large"))
                else:
                    self._buffer = data
                return
            raw = data[:end]
            head = self._memo.get(raw) or self._parser.response(raw)
            if isinstance(head, Fault):
                self._fail(head)
                return
            if head.status >= 200:
                break
            if head.status == 101:
                self._fail(errors.UPSTREAM_INVALID)
                return
            data = data[end:]
        status = head.status
        length = head.content_length
        if self._no_body or status in {204, 304}:
            length = 0
        elif length >= 0:
            if len(data) == end + length:
                self._buffer = b""
                self._finish(consumer, head, data[end:])
                return
            if status >= 400 and len(data) < end + length <= _GATHERED:
                self._buffer = data  # an error's text decides on a retry, so it is judged whole
                return
        elif head.chunked:
            self._decoder = ChunkedDecoder()
        elif head.keep_alive:
            self._fail(errors.UPSTREAM_INVALID.but("the backend's response has no length"))
            return
        self._buffer = b""
        if length == 0:
            self._finish(consumer, head, b"", len(data) == end)
            return
        self._head = head
        self._left = length
        consumer.response_start(head)
        if len(data) > end and self.consumer is not None:
            self._on_body(memoryview(data)[end:])

    def _on_body(self, data: bytes | memoryview) -> None:
        consumer = self.consumer
        assert consumer is not None
        if self._decoder is not None:
            try:
                slices = self._decoder.feed(data)
            except ChunkError:
                self._fail(errors.UPSTREAM_INVALID)
                return
            for piece in slices:
                consumer.response_data(piece)
                if self.consumer is not consumer:
                    return
            if self._decoder.done:
                self._end(consumer, not self._decoder.rest)
            return
        left = self._left
        size = len(data)
        if left < 0:
            consumer.response_data(data)
        elif size < left:
            self._left = left - size
            consumer.response_data(data)
        else:
            self._left = 0
            consumer.response_data(data if size == left else memoryview(data)[:left])
            if self.consumer is consumer:
                self._end(consumer, size == left)

    def _finish(self, consumer: Consumer, head: ResponseHead, body: bytes, clean: bool = True) -> None:
        self.consumer = None
        self._release(head, clean)
        consumer.response_complete(head, body)

    def _end(self, consumer: Consumer, clean: bool) -> None:
        head = self._head
        assert head is not None
        self.consumer = None
        self._head = None
        self._decoder = None
        self._release(head, clean)
        consumer.response_end()

    def _release(self, head: ResponseHead, clean: bool) -> None:
        """Gives the connection back before its consumer hears of the end, so that the next request may take it.

        One with surplus bytes behind the response (not `clean`) or with a request the backend has not taken in whole
        is never used again.
        """
        if head.keep_alive and clean and self.sent_all and not self._write_paused:
            if self._read_paused:  # by a client that reads slower than this response came
                self.resume()
            self.used += 1
            self.owner.released(self)
        else:
            self._poison()

    def _fail(self, fault: Fault) -> None:
        consumer, self.consumer = self.consumer, None
        self._poison()
        if consumer is not None:
            consumer.response_failed(fault)

    def _poison(self) -> None:
        if self.transport is not None:
            self.transport.abort()
