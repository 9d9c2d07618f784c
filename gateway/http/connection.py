"""A client's connection as the data plane uses it: answers, ends, watches the clock. Reading is in server.py."""

import asyncio
import contextlib
import select
import socket
import struct
from time import perf_counter
from typing import cast

from gateway import errors
from gateway.errors import Fault
from gateway.http.chunked import ChunkedDecoder
from gateway.http.head import RequestHead
from gateway.http.serving import IDLE, WAIT, WRITE_HIGH, Exchange, Phase, Service

_LINGER_S = 2.0
_RESET = struct.pack("ii", 1, 0)


class ClientConnection(asyncio.Protocol):
    """Server side of HTTP/1.1 over one transport, without the reading of requests.

    Attributes:
        transport: the client's transport.
        phase: where the connection is.
        keep_alive: whether another request may follow the present one.
        since: when the present phase began or last made progress (perf_counter seconds).
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_exchange",
        "_head",
        "_held",
        "_looping",
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
        self.transport: asyncio.Transport | None = None
        self.phase = Phase.IDLE
        self.since = perf_counter()
        self.keep_alive = True
        self._buffer = b""  # bytes behind the present request, or of an incomplete head
        self._exchange: Exchange | None = None
        self._head: RequestHead | None = None
        self._received = 0
        self._held = 0  # bytes of an incomplete request that are counted against the worker's bound
        self._parts: list[bytes] = []  # of a small body that is gathered
        self._decoder: ChunkedDecoder | None = None
        self._looping = False
        self._reading = True
        self._writing_since = 0.0
        self._until = 0.0  # end of lingering

    # the other half

    def _advance(self, data: bytes) -> None:
        """Takes complete requests out of `data` until one has to wait; `_buffer` is empty when it is called."""
        raise NotImplementedError

    def _body_failed(self, fault: Fault) -> None:
        """The rest of the request cannot be told from what follows it, or is not wanted."""
        raise NotImplementedError

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
        if self._held:
            self._hold(0)
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
                if self._held:
                    self._hold(0)
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

    def _hold(self, size: int) -> bool:
        """Counts what is kept of an incomplete request, `size` bytes in all; False where the bound forbids it."""
        if not self._service.partial.claim(size - self._held):
            return False
        self._held = size
        return True

    @property
    def _unread(self) -> bool:
        """Whether something of the client lies in the kernel, its next request most likely."""
        connection = self.transport.get_extra_info("socket") if self.transport is not None else None
        if connection is None or not self._reading:
            return False
        look = select.poll()
        look.register(connection.fileno(), select.POLLIN)
        return bool(look.poll(0))

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
        if phase is WAIT:
            if not self.keep_alive:
                if self._service.draining:  # its next request may be on the way
                    self._linger()
                else:
                    self.close()
                return
            self.phase = IDLE
            self.since = perf_counter()
            if self._writing_since:  # nothing more is begun for a client that does not read
                self.pause()
                return
            if not self._reading:
                self.resume()
            if self._buffer and not self._looping:
                rest, self._buffer = self._buffer, b""
                if self._held:
                    self._hold(0)
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
        if self._held:
            self._hold(0)
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
            # A request that has arrived while this process was kept from reading it must not meet a closed connection.
            if waited > limits.idle_timeout_s:
                if not self._unread:
                    self.close()
            elif self._service.draining and waited > self._service.idle_grace_s and not self._unread:
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
