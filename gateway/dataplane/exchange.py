"""One inference from accept to record: admit, lease, forward, mirror, observe.

An exchange ends twice. For the client it is settled by its last byte, by a deadline or by leaving; for the backend it
is released when Triton has answered or the connection is gone. In between it lingers: Triton goes on computing for a
client that left (server issue 7077), so the lease and the slot stay taken until it is really free again.
"""

from time import perf_counter
from typing import TYPE_CHECKING

from gateway import errors
from gateway.core.histogram import index
from gateway.core.retry import Answer, classify, within_budget
from gateway.dataplane import evidence
from gateway.dataplane.affinity import SequenceStep
from gateway.dataplane.mirror import ShadowCopy
from gateway.dataplane.plan import InferPlan
from gateway.dataplane.pool import BackendRuntime
from gateway.dataplane.table import VariantRuntime
from gateway.errors import Blame, Fault
from gateway.http.chunked import LAST_CHUNK, encode_chunk
from gateway.http.client import UpstreamConnection
from gateway.http.head import RequestHead, ResponseHead
from gateway.http.server import ServerConnection
from gateway.telemetry.records import Outcome, Sample

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

_OUTCOME_OF_FAULT = {
    errors.DEADLINE.code: Outcome.TIMEOUT,
    errors.CONNECT_FAILED.code: Outcome.CONNECT_ERROR,
    errors.NO_BACKEND.code: Outcome.CONNECT_ERROR,
}
_STREAM_ERROR = b'data: {"error"'
_QUEUE = 256 << 10


class Exchange:
    """One client's inference request and its attempts.

    Attributes:
        deadline: absolute, perf_counter seconds; after settling, the end of lingering.
    """

    __slots__ = (
        "_admitted",
        "_attempts",
        "_backend",
        "_body",
        "_body_bytes",
        "_buffered",
        "_captured",
        "_captured_bytes",
        "_chunked_out",
        "_complete",
        "_connection",
        "_copies",
        "_counts",
        "_drawn",
        "_head",
        "_header_line",
        "_held",
        "_hold_bound",
        "_plan",
        "_request_id",
        "_response",
        "_retrying",
        "_sent_at",
        "_sequence",
        "_service",
        "_started",
        "_started_at",
        "_status",
        "_stream_failed",
        "_stream_tail",
        "_total_s",
        "_upstream",
        "_upstream_s",
        "_variant",
        "deadline",
    )

    def __init__(
        self,
        service: "DataPlane",
        connection: ServerConnection,
        head: RequestHead,
        plan: InferPlan,
        variant: VariantRuntime,
        body: bytes | None,
        sequence: SequenceStep | None,
        header_line: bytes = b"",
    ) -> None:
        now = perf_counter()
        self._service = service
        self._connection: ServerConnection | None = connection
        self._head = head
        self._plan = plan
        self._variant = variant
        self._sequence = sequence
        self._header_line = header_line  # Inference-Header-Content-Length, where the gateway has changed the JSON
        drawn = not plan.pinned and (sequence is None or sequence.start)
        self._counts = variant.counts if drawn else variant.pinned_counts
        self._request_id = head.request_id or service.next_request_id()
        self._started_at = now
        self.deadline = now + plan.timeout_s
        self._complete = body is not None
        self._body = body or b""  # all of a complete body
        self._held: list[bytes | memoryview] | None = None  # slices of a streamed one, while they may be needed again
        self._body_bytes = len(self._body)
        self._hold_bound = 0
        self._buffered = 0  # bytes of the body counted in service.buffered
        self._admitted = False
        self._attempts = 0
        self._retrying = False
        self._backend: BackendRuntime | None = None
        self._upstream: UpstreamConnection | None = None
        self._started = False
        self._chunked_out = False
        self._status = 0
        self._sent_at = now
        self._upstream_s = 0.0  # sent to response head, last attempt
        self._total_s = 0.0  # accepted to response head
        self._stream_tail = b""
        self._stream_failed = False
        self._copies: list[ShadowCopy] = []
        self._response: ResponseHead | None = None
        self._captured: list[bytes] | None = None  # the answer's body, where somebody will look at it
        self._captured_bytes = 0
        self._drawn = False

    # admission and attempts

    def start(self) -> None:
        """Admits the request and sends it on its way, or answers why not."""
        service, plan = self._service, self._plan
        route = plan.route
        self._counts.assigned += 1
        if route.keys is not None and plan.key:
            route.keys.see("assigned", route.epoch, self._variant.config.name, plan.key)
        state = route.state
        if state.in_flight >= route.max_in_flight:
            self._reject(errors.SHED_ROUTE)
            return
        if service.in_flight >= service.max_in_flight:
            self._reject(errors.SHED_WORKER)
            return
        if service.buffered + self._body_bytes > service.max_buffered:
            self._reject(errors.SHED_MEMORY)
            return
        self._buffer(self._body_bytes)
        self._admitted = True
        state.in_flight += 1
        service.in_flight += 1
        service.deadlines.add(self)
        if route.shadows:
            self._copies = service.mirror.sample(route, self._sequence)
        if route.draw is not None:
            self._drawn = route.draw.hit(self._started_at)
        if self._drawn or any(copy.shadow.config.compare for copy in self._copies):
            self._captured = []
        if not self._complete:
            self._hold_bound = self._bound_of_hold()
            self._held = []
        self._attempt(None)
        if self._complete and self._copies and self._admitted:
            self._send_copies()

    def _buffer(self, size: int) -> None:
        """Counts bytes of the body as held by this exchange; negative ones as let go."""
        self._buffered += size
        self._service.buffered += size

    def _bound_of_hold(self) -> int:
        """How many bytes of a streamed body may be kept; 0 when nothing needs them or they are known to be too many."""
        limits = self._service.limits
        bound = limits.max_held_bytes if self._plan.route.config.retries else 0
        for copy in self._copies:
            bound = max(bound, copy.shadow.config.max_body_bytes)
        return bound if self._head.content_length <= bound else 0

    def _reject(self, fault: Fault) -> None:
        """Answers before anything was taken."""
        self._counts.outcomes[Outcome.SHED] += 1
        connection, self._connection = self._connection, None
        if connection is not None:
            self._service.answer_fault(connection, fault, self._plan.route.name, self._request_id)

    def _attempt(self, avoid: BackendRuntime | None) -> None:
        pool, sequence = self._variant.pool, self._sequence
        if sequence is not None and sequence.backend is not None:
            backend = pool.lease_on(sequence.backend)
        else:
            backend = pool.lease(avoid)
        if backend is None:
            self._fail(errors.SHED_BACKEND if pool.available else errors.NO_BACKEND)
            return
        if sequence is not None:
            self._service.affinity.placed(sequence, backend)
        self._attempts += 1
        self._backend = backend
        upstream = backend.take_idle()
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
        backend, plan, head = self._backend, self._plan, self._head
        assert backend is not None
        if self._complete:
            parts: tuple[bytes | memoryview, ...] = (self._body,) if self._held is None else tuple(self._held)
            length = self._body_bytes
        else:
            parts = tuple(self._held or ())
            length = head.content_length
        if length >= 0:
            framing = b"Content-Length: %d\r\n%bx-request-id: " % (length, self._header_line)
        else:
            framing = b"Transfer-Encoding: chunked\r\nx-request-id: "
            parts = tuple(piece for part in parts for piece in encode_chunk(part))
        data = b"".join((plan.lines(self._variant), backend.host_line, framing, self._request_id, b"\r\n\r\n", *parts))
        self._sent_at = perf_counter()
        upstream.send(self, data, self._complete, False)
        connection = self._connection
        if not self._complete:
            if self._hold_bound == 0:
                self._unhold()
            if connection is not None:
                connection.resume()

    # the request's body (server.Exchange)

    def body_data(self, data: bytes | memoryview) -> None:
        """A slice of a long body: forwarded as it comes, kept only while something may need it again."""
        size = len(data)
        self._body_bytes += size
        upstream, held = self._upstream, self._held
        if upstream is not None:
            if self._head.content_length >= 0:
                upstream.write(data)
            else:
                for piece in encode_chunk(data):
                    upstream.write(piece)
        if held is None:
            return
        held.append(data)
        self._buffer(size)
        if upstream is not None:
            if self._body_bytes > self._hold_bound or self._service.buffered > self._service.max_buffered:
                self._unhold()
        elif self._body_bytes > _QUEUE and self._connection is not None:
            self._connection.pause()  # nowhere to send it yet

    def _unhold(self) -> None:
        """Lets go of a streamed body: no retry and no shadow from here on."""
        self._held = None
        self._buffer(-self._buffered)
        for copy in self._copies:
            copy.drop("too_large")
        self._copies.clear()

    def body_end(self) -> None:
        """The request is complete."""
        self._complete = True
        upstream = self._upstream
        if upstream is not None:
            if self._head.content_length < 0:
                upstream.write(LAST_CHUNK)
            upstream.sent_all = True
        if self._copies:
            self._send_copies()

    def body_failed(self, fault: Fault) -> None:
        """The rest of the request will not come."""
        self._drop_upstream()
        self._fail(fault)

    def _send_copies(self) -> None:
        body = self._body if self._held is None else b"".join(self._held)
        for copy in self._copies:
            copy.send(self._plan, self._variant, body, self._header_line, self._request_id)

    # the response (client.Consumer)

    def response_complete(self, head: ResponseHead, body: bytes) -> None:
        """The common case: the whole answer in one piece."""
        now = perf_counter()
        self._upstream = None
        connection = self._connection
        if connection is None:
            self._observe(head.status)
            self._release()
            return
        status = head.status
        if status >= 400:
            alternatives = len(self._variant.pool.available) - 1
            if classify(status, body, alternatives) is Answer.ELSEWHERE and self._may_retry(None):
                self._retry()
                return
        if self._plan.stream and _STREAM_ERROR in body:
            self._stream_failed = True
        self._upstream_s = upstream_s = now - self._sent_at
        self._total_s = total_s = now - self._started_at
        data = b"".join(
            (
                head.sized if head.content_length >= 0 else head.block + b"Content-Length: %d\r\n" % len(body),
                self._variant.stamp,
                b"x-request-id: %b\r\nserver-timing: gateway;dur=%.2f, upstream;dur=%.2f\r\n%b\r\n"
                % (self._request_id, (total_s - upstream_s) * 1e3, upstream_s * 1e3, connection.connection_header),
                body,
            )
        )
        self._status = status
        self._response = head
        if self._captured is not None:
            self._captured.append(body)
            self._captured_bytes = len(body)
        self._observe(status)
        self._settle_answered(len(body))
        self._connection = None
        self._release()
        connection.finish(data)

    def response_start(self, head: ResponseHead) -> None:
        """The head of a longer answer."""
        now = perf_counter()
        self._observe(head.status)
        connection = self._connection
        if connection is None:
            self._drop_upstream()  # it starts to write: closing now tells Triton that nobody listens
            self._release()
            return
        self._started = True
        self._status = head.status
        self._response = head
        self._upstream_s = upstream_s = now - self._sent_at
        self._total_s = total_s = now - self._started_at
        framing = head.sized
        if head.content_length < 0:
            if self._head.http11:
                self._chunked_out = True
                framing += b"Transfer-Encoding: chunked\r\n"
            else:
                connection.keep_alive = False
        connection.write(
            b"".join(
                (
                    framing,
                    self._variant.stamp,
                    b"x-request-id: %b\r\nserver-timing: gateway;dur=%.2f, upstream;dur=%.2f\r\n%b\r\n"
                    % (self._request_id, (total_s - upstream_s) * 1e3, upstream_s * 1e3, connection.connection_header),
                )
            )
        )

    def response_data(self, data: bytes | memoryview) -> None:
        """A slice of a longer answer, passed on as it comes."""
        connection = self._connection
        if connection is None or not data:
            return
        size = len(data)
        self._counts.response_bytes += size
        if self._captured is not None:
            self._captured_bytes += size
            if self._captured_bytes <= self._plan.route.max_sampled_bytes:
                self._captured.append(bytes(data))
            else:
                self._captured = None
        if self._plan.stream and not self._stream_failed:
            window = self._stream_tail + bytes(data)
            self._stream_failed = _STREAM_ERROR in window
            self._stream_tail = window[-len(_STREAM_ERROR) :]
        if self._chunked_out:
            for piece in encode_chunk(data):
                connection.write(piece)
        else:
            connection.write(data)

    def response_end(self) -> None:
        """The end of a longer answer."""
        self._upstream = None
        connection, self._connection = self._connection, None
        if connection is not None:
            self._settle_answered(0)
        self._release()
        if connection is not None:
            connection.finish(LAST_CHUNK if self._chunked_out else b"")

    def response_failed(self, fault: Fault) -> None:
        """The connection to the backend broke, or its bytes are no HTTP."""
        self._upstream = None
        if self._backend is not None:
            self._backend.observe(False)
        if self._connection is None:
            self._release()
        elif self._started:
            self._settle(Outcome.UPSTREAM_ERROR)
            connection, self._connection = self._connection, None
            self._release()
            connection.abort()
        else:
            self._attempt_failed(fault)

    def upstream_paused(self, paused: bool) -> None:
        """Back-pressure from the backend onto the client's body."""
        if self._connection is not None:
            if paused:
                self._connection.pause()
            else:
                self._connection.resume()

    def client_paused(self, paused: bool) -> None:
        """Back-pressure from the client onto the backend's answer."""
        if self._upstream is not None:
            if paused:
                self._upstream.pause()
            else:
                self._upstream.resume()

    # retries

    def _attempt_failed(self, fault: Fault) -> None:
        if self._may_retry(fault):
            self._retry()
            return
        if self._sequence is not None:
            self._service.affinity.lost(self._sequence)
            fault = errors.SEQUENCE_LOST
        self._fail(fault)

    def _may_retry(self, fault: Fault | None) -> bool:
        """Whether another attempt is allowed after a failure, or (None) after an answer that says "not here"."""
        service = self._service
        return (
            not self._started
            and self._complete
            and (self._sequence is None or (self._sequence.start and fault is errors.CONNECT_FAILED))
            and (self._held is not None or self._body_bytes == len(self._body))
            and self._attempts <= self._plan.route.config.retries
            and within_budget(service.retrying - self._retrying, service.in_flight)
        )

    def _retry(self) -> None:
        service, failed = self._service, self._backend
        assert failed is not None
        failed.in_flight -= 1
        self._backend = None
        service.retries += 1
        if not self._retrying:
            self._retrying = True
            service.retrying += 1
        self._attempt(failed)

    # endings

    def on_deadline(self) -> None:
        """The deadline passed: answer, then linger; or lingering passed its own bound."""
        connection = self._connection
        if connection is None:
            self._drop_upstream()
            self._release()
            return
        self._linger_or_release(Outcome.TIMEOUT)
        if self._started:
            connection.abort()
        else:
            self._service.answer_fault(connection, errors.DEADLINE, self._plan.route.name, self._request_id)

    def client_gone(self) -> None:
        """The client left before its answer."""
        if self._connection is not None:
            self._linger_or_release(Outcome.CANCELLED)

    def _linger_or_release(self, outcome: Outcome) -> None:
        """Settles; keeps lease and slot while Triton has the whole request and has not answered."""
        self._settle(outcome)
        self._connection = None
        service = self._service
        if self._upstream is not None and self._complete and not self._started:
            service.deadlines.discard(self)
            self.deadline = perf_counter() + service.limits.linger_s
            service.deadlines.add(self)
        else:
            self._drop_upstream()
            self._release()

    def _fail(self, fault: Fault) -> None:
        """Ends with an answer made by the gateway, or by cutting off an answer already begun."""
        connection, self._connection = self._connection, None
        if connection is None:
            self._release()
            return
        if fault.blame is Blame.OVERLOAD:
            self._settle(Outcome.SHED)
        elif fault.blame is Blame.CLIENT:
            self._settle(Outcome.CLIENT_ERROR)
        else:
            self._settle(_OUTCOME_OF_FAULT.get(fault.code, Outcome.UPSTREAM_ERROR))
        started = self._started
        self._release()
        if started:
            connection.abort()
        else:
            self._service.answer_fault(connection, fault, self._plan.route.name, self._request_id)

    def _settle_answered(self, body_bytes: int) -> None:
        """Counts an answer of the backend that reached the client whole."""
        counts, status = self._counts, self._status
        statuses = counts.statuses
        statuses[status] = statuses.get(status, 0) + 1
        counts.request_bytes += self._body_bytes
        if self._stream_failed or (status >= 500 and status != 501):
            counts.outcomes[Outcome.UPSTREAM_ERROR] += 1
            self._see_key("server")
        elif status >= 400:
            counts.outcomes[Outcome.CLIENT_ERROR] += 1
            self._see_key("client")
        else:
            counts.outcomes[Outcome.OK] += 1
            us = int(self._total_s * 1e6)
            bucket = index(us)
            counts.latency[bucket] += 1
            counts.latency_us += us
            counts.upstream_us += int(self._upstream_s * 1e6)
            if self._plan.route.keys is not None and bucket > self._plan.route.slow_bin:
                self._see_key("slow")
            if self._captured is not None:
                self._sample()
        counts.response_bytes += body_bytes

    def _see_key(self, check: str) -> None:
        """Notes the first time that a sticky key meets a kind of bad outcome."""
        route, key = self._plan.route, self._plan.key
        if route.keys is not None and key:
            route.keys.see(check, route.epoch, self._variant.config.name, key)

    def _sample(self) -> None:
        """Hands a good answer on: for itself where it was drawn, beside each copy that is to be compared."""
        route, response = self._plan.route, self._response
        if self._captured is None or response is None or self._captured_bytes > route.max_sampled_bytes:
            return
        name = self._variant.config.name
        sample = Sample(
            route=route.name,
            epoch=route.epoch,
            pinned=self._counts.pinned,
            request_id=self._request_id.decode("latin-1"),
            key=self._plan.key,
            original=evidence.answer(name, self._status, response.fields, b"".join(self._captured)),
        )
        if self._drawn:
            self._service.sampler.add(sample)
        for copy in self._copies:
            copy.answer_of_original(sample)

    def _settle(self, outcome: Outcome) -> None:
        """Counts an end without a whole answer."""
        counts = self._counts
        counts.outcomes[outcome] += 1
        counts.request_bytes += self._body_bytes
        if outcome is Outcome.SHED:
            self._see_key("shed")
        elif outcome in {Outcome.UPSTREAM_ERROR, Outcome.CONNECT_ERROR}:
            self._see_key("server")
        elif outcome is Outcome.TIMEOUT:
            self._see_key("server")
            us = int((perf_counter() - self._started_at) * 1e6)
            counts.latency[index(us)] += 1
            counts.latency_us += us

    def _observe(self, status: int) -> None:
        backend = self._backend
        if backend is not None:
            backend.observe(status < 500 or status == 501)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _release(self) -> None:
        """Gives back the lease, the slot and the memory, once."""
        if not self._admitted:
            return
        self._admitted = False
        service = self._service
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.in_flight -= 1
        self._plan.route.state.in_flight -= 1
        service.in_flight -= 1
        service.buffered -= self._buffered
        service.deadlines.discard(self)
        if self._retrying:
            service.retrying -= 1
