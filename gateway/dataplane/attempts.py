"""The half of an exchange that faces the backends: lease, connect, send, try again, try twice.

`exchange.py` has the half that faces the client. Both are one object, because every event of either side can end it.
"""

from time import perf_counter
from typing import TYPE_CHECKING

from gateway import errors
from gateway.core.retry import blames_backend
from gateway.dataplane.affinity import SequenceStep
from gateway.dataplane.hedge import Hedge, Leftover
from gateway.dataplane.mirror import ShadowCopy
from gateway.dataplane.plan import InferPlan
from gateway.dataplane.pool import BackendRuntime
from gateway.dataplane.relay import Relay
from gateway.dataplane.streamed import StreamedBody
from gateway.dataplane.table import VariantRuntime
from gateway.errors import Fault
from gateway.http.client import Consumer, UpstreamConnection
from gateway.http.connection import ClientConnection
from gateway.http.head import RequestHead

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

NO_COPIES: list[ShadowCopy] = []


class Attempts(Consumer):
    """One client's inference request on its way to a backend.

    Args:
        service: the worker's data plane.
        connection: the client.
        head: the request.
        plan: what was decided from its head.
        variant: who serves it.
        body: the whole body, or None when slices follow.
        sequence: the sequence it belongs to, if any.
        header_line: Inference-Header-Content-Length as a line, where the gateway has changed the JSON.
        arrived_at: when the request arrived, where it had to wait (perf_counter seconds).


    Attributes:
        deadline: absolute, perf_counter seconds; after settling, the end of lingering.
    """

    __slots__ = (
        "_admitted",
        "_attempts",
        "_backend",
        "_body",
        "_clients_own",
        "_connection",
        "_copies",
        "_counts",
        "_drawn",
        "_head",
        "_hedge",
        "_own_lines",
        "_plan",
        "_relay",
        "_request_id",
        "_response",
        "_retrying",
        "_sent_at",
        "_sequence",
        "_service",
        "_started_at",
        "_stream",
        "_total_s",
        "_upstream",
        "_upstream_s",
        "_variant",
        "deadline",
    )

    def __init__(
        self,
        service: "DataPlane",
        connection: ClientConnection,
        head: RequestHead,
        plan: InferPlan,
        variant: VariantRuntime,
        body: bytes | None,
        sequence: SequenceStep | None,
        header_line: bytes = b"",
        arrived_at: float = 0.0,
    ) -> None:
        self._service = service
        self._connection: ClientConnection | None = connection
        self._head = head
        self._plan = plan
        self._variant = variant
        self._body = body
        self._sequence = sequence
        self._own_lines = header_line + head.passing
        drawn = not plan.pinned and (sequence is None or sequence.start)
        self._counts = variant.counts if drawn else variant.pinned_counts
        self._request_id = head.request_id or service.next_request_id()
        self._started_at = now = arrived_at or perf_counter()
        self.deadline = now + plan.timeout_s
        self._admitted = False
        self._attempts = 0
        self._upstream_s = 0.0  # of a request that gets no answer
        self._retrying = False
        self._clients_own = False  # a 500 that says that the request is malformed
        self._backend: BackendRuntime | None = None
        self._upstream: UpstreamConnection | None = None
        self._stream: StreamedBody | None = None
        self._relay: Relay | None = None
        self._hedge: Hedge | None = None
        self._copies = NO_COPIES
        self._drawn = False  # the answer is sampled

    # the other half

    def _fail(self, fault: Fault) -> None:
        """Ends with an answer made by the gateway, or by cutting off an answer already begun."""
        raise NotImplementedError

    def _drop_copies(self) -> None:
        """The body was let go before it was complete."""
        raise NotImplementedError

    # attempts

    def _attempt(self, avoid: BackendRuntime | None, fresh: bool = False) -> None:
        pool, sequence = self._variant.pool, self._sequence
        if sequence is not None and sequence.backend is not None:
            backend = pool.lease_on(sequence.backend)
        else:
            backend = pool.lease(avoid, self._variant.lacking)
        if backend is None:
            self._fail(errors.SHED_BACKEND if pool.available else errors.NO_BACKEND)
            return
        if sequence is not None:
            self._service.affinity.placed(sequence, backend)
        self._attempts += 1
        self._backend = backend
        upstream = None if fresh else backend.take_idle()
        if upstream is not None:
            self._send(upstream)
        else:
            self._service.connect(self, backend)

    def connected(self, backend: BackendRuntime, upstream: UpstreamConnection) -> None:
        """A new connection to the leased backend is there; one that nobody waits for any more becomes idle."""
        if self._backend is backend and self._upstream is None:
            self._send(upstream)
        else:
            backend.released(upstream)

    def connect_failed(self, backend: BackendRuntime) -> None:
        """The leased backend took no connection."""
        if self._backend is backend and self._upstream is None:
            backend.observe(False)
            self._attempt_failed(errors.CONNECT_FAILED)

    def _send(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        backend, stream, body = self._backend, self._stream, self._body
        assert backend is not None
        if body is not None:
            data = self.message(backend)
            self._sent_at = perf_counter()
            upstream.send(self, data, True, False)
            if self._plan.hedge_after_s and self._sequence is None and self._attempts == 1:
                self._hedge = Hedge(self._service, self, self._plan.hedge_after_s)
            return
        assert stream is not None
        length = stream.length
        framing = b"Content-Length: %d\r\n" % length if length >= 0 else b"Transfer-Encoding: chunked\r\n"
        lines = self._plan.lines(self._variant)
        head = (lines, backend.host_line, framing, self._own_lines, b"x-request-id: ", self._request_id, b"\r\n\r\n")
        self._sent_at = perf_counter()
        upstream.send(self, b"".join((*head, *stream.parts())), stream.complete, False)
        if not stream.sending():
            self._drop_copies()
        if not stream.complete and self._connection is not None:
            self._connection.resume()

    def message(self, backend: BackendRuntime) -> bytes:
        """The whole request as bytes for one backend; only for a body that came whole."""
        body = self._body
        assert body is not None
        return b"%b%bContent-Length: %d\r\n%bx-request-id: %b\r\n\r\n%b" % (
            self._plan.lines(self._variant),
            backend.host_line,
            len(body),
            self._own_lines,
            self._request_id,
            body,
        )

    # hedging

    def lease_elsewhere(self) -> BackendRuntime | None:
        """A lease on another backend than the present attempt's, if there is one."""
        found = self._variant.pool.lease(self._backend, self._variant.lacking)
        if found is not None and found is self._backend:
            found.in_flight -= 1
            return None
        return found

    def taken_over(self, hedge: Hedge) -> None:
        """The second attempt answers first: it becomes the attempt, the first one is left over."""
        backend, upstream = self._backend, self._upstream
        self._hedge = None
        self._backend, hedge.backend = hedge.backend, None
        self._upstream, self._sent_at = hedge.upstream, hedge.sent_at
        if backend is not None:
            if upstream is not None:
                Leftover(self._service, backend, upstream)
            else:
                backend.in_flight -= 1

    # retries

    def _end_hedge(self) -> None:
        hedge, self._hedge = self._hedge, None
        if hedge is not None:
            hedge.lose()

    def _attempt_failed(self, fault: Fault, stale: bool = False) -> None:
        """Tries again where that is allowed.

        A connection that had served before and ended without a word was most likely closed while it was idle: that
        says nothing about its backend and is no attempt, but the next one gets a new connection.
        """
        self._end_hedge()
        if stale and self._plan.route.config.retries:
            self._attempts -= 1
        if self._may_retry(fault):
            self._retry(stale)
            return
        if self._sequence is not None:
            self._service.affinity.lost(self._sequence)
            fault = errors.SEQUENCE_LOST
        self._fail(fault)

    def _may_retry(self, fault: Fault | None) -> bool:
        """Whether another attempt is allowed after a failure, or (None) after an answer that says "not here"."""
        return (
            self._relay is None
            and (self._stream is None or self._stream.held is not None)
            and (self._sequence is None or (self._sequence.start and fault is errors.CONNECT_FAILED))
            and self._attempts <= self._plan.route.config.retries
            and self._service.retry_budget.take()
        )

    def _retry(self, fresh: bool = False) -> None:
        service, failed = self._service, self._backend
        assert failed is not None
        failed.in_flight -= 1
        self._backend = None
        service.retries += 1
        if not self._retrying:
            self._retrying = True
            service.retrying += 1
        self._attempt(None if fresh else failed, fresh)

    def _observe(self, status: int, body: bytes = b"") -> None:
        if self._backend is not None:
            self._backend.observe(status < 500 or not blames_backend(status, body))

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
