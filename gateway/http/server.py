"""The client's side of the data plane: one connection, its requests one after another.

Small requests that arrive whole take a path without state: find the head's end, look the head up, hand over. All
else (long bodies, chunks, pipelining, slow clients) is a small state machine around `Phase`.
"""

import re
from time import perf_counter

from gateway import errors
from gateway.errors import Fault
from gateway.http.chunked import ChunkedDecoder, ChunkError
from gateway.http.connection import ClientConnection
from gateway.http.head import RequestHead
from gateway.http.serving import IDLE, WAIT, Phase, Service

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PENDING = 64 << 10
_MAX_DRAIN = 64 << 20
_PROGRESS = 8 << 10  # a body that drips is as good as one that rests
_EMPTY_LINES = re.compile(rb"(?:\r\n)++")


class ServerConnection(ClientConnection):
    """Server side of HTTP/1.1 over one transport."""

    __slots__ = ("_left", "_marked", "_memo")

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._memo = service.heads.requests
        self._left = 0
        self._marked = 0  # bytes of the body when it last made progress worth the name

    def data_received(self, data: bytes) -> None:
        """Called by the loop with what the client sent."""
        phase = self.phase
        if phase is IDLE:
            self._advance(data)
        elif phase is Phase.HEAD:
            data, self._buffer = self._buffer + data, b""
            if self._held:
                self._hold(0)
            self._advance(data)
        elif phase is Phase.WAIT:
            self._buffer += data
            if not self._hold(len(self._buffer)) or self._held > _PENDING:
                self.pause()
        elif phase is Phase.LINGER:
            self.since = perf_counter()
            self._received += len(data)
            if self._received > _MAX_DRAIN:
                self.abort()
        elif phase is not Phase.CLOSED:
            # A short body, or one that nobody needs, has to come within its time as a whole.
            if phase is Phase.STREAM and self._received - self._marked >= _PROGRESS:
                self.since = perf_counter()
                self._marked = self._received
            rest = self._body(data)
            if rest:
                self._advance(rest)

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
            self.phase = WAIT
            self._looping = True
            exchange = service.begin(self, head, body)
            self._looping = False
            if self.phase is WAIT:
                self._exchange = exchange
                return
            if self.phase is not IDLE or not self._buffer or self._writing_since:
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
                if data and not self._hold(len(data)):
                    self._head = None
                    self.refuse(errors.SHED_MEMORY)
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
        self._marked = 0
        # Also a long one first has to show its beginning: whoever sends a head and then nothing takes no slot.
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
            if self._left or self.phase is Phase.CLOSED or self.phase is Phase.LINGER:
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
        if self._received <= limits.stream_above_bytes:
            if self._hold(self._received):
                self._parts.append(bytes(data))
            else:
                self._body_failed(errors.SHED_MEMORY)
            return
        assert self._head is not None
        parts, self._parts = self._parts, []
        if self._held:
            self._hold(0)
        self.phase = Phase.STREAM
        self.since = perf_counter()
        exchange = self._service.begin(self, self._head, None)
        if self.phase is Phase.STREAM:
            self._exchange = exchange
            exchange.body_data(b"".join((*parts, data)) if parts else data)

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
            if self._held:
                self._hold(0)
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
