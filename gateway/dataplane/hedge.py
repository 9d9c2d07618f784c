"""A second attempt beside a slow first one, on another backend; the first answer wins (Dean & Barroso 2013).

Off unless a route asks for it. Only whole requests without a sequence are hedged, within the budget of retries. The
loser is not cut off: Triton would compute on without noticing, so its lease stays taken until it has answered.
"""

from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.retry import within_budget
from gateway.dataplane.pool import BackendRuntime
from gateway.errors import Fault
from gateway.http.client import UpstreamConnection
from gateway.http.head import ResponseHead

if TYPE_CHECKING:
    from gateway.dataplane.attempts import Attempts
    from gateway.dataplane.service import DataPlane


class Leftover:
    """An attempt whose answer nobody waits for: holds its lease until the backend is done, within a bound."""

    __slots__ = ("_backend", "_service", "_upstream", "deadline")

    def __init__(self, service: "DataPlane", backend: BackendRuntime, upstream: UpstreamConnection) -> None:
        self._service = service
        self._backend: BackendRuntime | None = backend
        self._upstream = upstream
        upstream.consumer = self
        upstream.resume()
        self.deadline = perf_counter() + service.limits.linger_s
        service.deadlines.add(self)

    def response_complete(self, head: ResponseHead, body: bytes) -> None:
        """It is done."""
        self._end()

    def response_start(self, head: ResponseHead) -> None:
        """It is done, but for a long answer: closing tells Triton that nobody listens."""
        self._upstream.abort()
        self._end()

    def response_data(self, data: bytes | memoryview) -> None:
        """Never called: the connection was ended before."""

    def response_end(self) -> None:
        """Never called: the connection was ended before."""

    def response_failed(self, fault: Fault) -> None:
        """It is gone."""
        self._end()

    def upstream_paused(self, paused: bool) -> None:
        """The request was sent long ago."""

    def on_deadline(self) -> None:
        """It took too long."""
        self._upstream.abort()
        self._end()

    def _end(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.in_flight -= 1
            self._service.deadlines.discard(self)


class Hedge:
    """Waits beside an exchange, then tries a second backend.

    Attributes:
        backend: where the second attempt goes, once there is one.
        upstream: its connection, once it is sent.
        sent_at: when it was sent.
        deadline: when to start it, perf_counter seconds.
    """

    __slots__ = ("_exchange", "_service", "backend", "deadline", "sent_at", "upstream")

    def __init__(self, service: "DataPlane", exchange: "Attempts", after_s: float) -> None:
        self._service = service
        self._exchange: Attempts | None = exchange
        self.backend: BackendRuntime | None = None
        self.upstream: UpstreamConnection | None = None
        self.sent_at = 0.0
        self.deadline = perf_counter() + after_s
        service.deadlines.add(self)

    def on_deadline(self) -> None:
        """The first attempt is slow: start the second one, if another backend can take it."""
        service, exchange = self._service, self._exchange
        if exchange is None or not within_budget(service.retrying, service.in_flight):
            return
        backend = exchange.lease_elsewhere()
        if backend is None:
            return
        self.backend = backend
        service.retrying += 1
        service.retries += 1
        upstream = backend.take_idle()
        if upstream is not None:
            self._send(upstream)
        else:
            service.connect(self, backend)

    def connected(self, backend: BackendRuntime, upstream: UpstreamConnection) -> None:
        """The second backend can be reached."""
        if self._exchange is not None and self.backend is backend:
            self._send(upstream)
        else:
            backend.released(upstream)

    def connect_failed(self, backend: BackendRuntime) -> None:
        """It cannot; the first attempt is still under way."""
        if self.backend is backend:
            backend.observe(False)
            self._let_go()

    def _send(self, upstream: UpstreamConnection) -> None:
        assert self._exchange is not None
        assert self.backend is not None
        self.upstream = upstream
        self.sent_at = perf_counter()
        upstream.send(self, self._exchange.message(self.backend), True, False)

    # the response (client.Consumer)

    def response_complete(self, head: ResponseHead, body: bytes) -> None:
        """The second attempt is faster."""
        exchange = self._win()
        if exchange is not None:
            exchange.response_complete(head, body)

    def response_start(self, head: ResponseHead) -> None:
        """The second attempt is faster, and its answer long."""
        upstream, exchange = self.upstream, self._win()
        if exchange is not None and upstream is not None:
            upstream.consumer = exchange
            exchange.response_start(head)

    def response_data(self, data: bytes | memoryview) -> None:
        """Never called: the exchange took over at the head."""

    def response_end(self) -> None:
        """Never called: the exchange took over at the head."""

    def response_failed(self, fault: Fault) -> None:
        """It broke; the first attempt is still under way."""
        if self.backend is not None:
            self.backend.observe(False)
        self.upstream = None
        self._let_go()

    def upstream_paused(self, paused: bool) -> None:
        """The request is sent whole."""

    # endings

    def _win(self) -> "Attempts | None":
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._service.retrying -= 1
            exchange.taken_over(self)
        return exchange

    def lose(self) -> None:
        """The exchange has its answer, or ended: an attempt under way is left over."""
        self._exchange = None
        self._service.deadlines.discard(self)
        backend, upstream = self.backend, self.upstream
        if backend is not None and upstream is not None:
            self.backend = None
            self._service.retrying -= 1
            Leftover(self._service, backend, upstream)
        else:
            self._let_go()

    def _let_go(self) -> None:
        backend, self.backend = self.backend, None
        if backend is not None:
            backend.in_flight -= 1
            self._service.retrying -= 1
