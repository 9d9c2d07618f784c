"""One inference from accept to record: admit, lease, forward, mirror, observe.

An exchange ends twice. For the client it is settled by its last byte, by a deadline or by leaving; for the backend it
is released when Triton has answered or the connection is gone. In between it lingers: Triton goes on computing for a
client that left (server issue 7077), so the lease and the slot stay taken until it is really free again.

This is the half that faces the client; attempts.py has the other.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from gateway import errors
from gateway.core.retry import Answer, blames_client, classify
from gateway.core.scrub import without_paths
from gateway.dataplane import evidence, observe
from gateway.dataplane.attempts import NO_COPIES, Attempts
from gateway.dataplane.relay import STREAM_ERROR, Relay
from gateway.dataplane.streamed import StreamedBody
from gateway.errors import Fault
from gateway.http.connection import ClientConnection
from gateway.http.head import ResponseHead
from gateway.telemetry.records import Outcome

if TYPE_CHECKING:
    pass


class Exchange(Attempts):
    """One client's inference request and its attempts."""

    __slots__ = ()

    # admission

    def start(self) -> None:
        """Takes a slot, which the service has found free, and sends the request on its way."""
        service, plan, body = self._service, self._plan, self._body
        route = plan.route
        observe.assigned(self._counts, plan)
        if not service.claim(len(body) if body is not None else 0):
            self._reject(errors.SHED_MEMORY)
            return
        self._admitted = True
        route.state.in_flight += 1
        service.in_flight += 1
        service.deadlines.add(self)
        if route.shadows:
            self._copies = service.mirror.sample(route, self._sequence)
        if route.draw is not None:
            self._drawn = route.draw.hit(self._started_at)
        if body is None:
            bound = service.limits.max_held_bytes if route.config.retries else 0
            bound = max(bound, *(copy.shadow.config.max_body_bytes for copy in self._copies), 0)
            self._stream = StreamedBody(self._head.content_length, bound, service.claim_spare)
        self._attempt(None)
        if self._copies and body is not None and self._admitted:
            self._send_copies((body,))

    def _reject(self, fault: Fault) -> None:
        """Answers before anything was taken."""
        observe.ended(self._counts, self._plan, Outcome.SHED, 0.0, 0)
        connection, self._connection = self._connection, None
        if connection is not None:
            self._service.answer_fault(connection, fault, self._plan.route.name, self._request_id)

    # the request's body (serving.Exchange)

    def body_data(self, data: bytes | memoryview) -> None:
        """A slice of a long body."""
        stream = self._stream
        assert stream is not None
        if not stream.take(data, self._upstream):
            self._drop_copies()
        elif self._upstream is None and stream.clogged and self._connection is not None:
            self._connection.pause()

    def body_end(self) -> None:
        """The request is complete."""
        stream = self._stream
        assert stream is not None
        stream.end(self._upstream)
        if self._copies and stream.held is not None:
            self._send_copies(stream.held)

    def body_failed(self, fault: Fault) -> None:
        """The rest of the request will not come."""
        self._drop_upstream()
        self._fail(fault)

    def _send_copies(self, body: Sequence[bytes | memoryview]) -> None:
        for copy in self._copies:
            copy.send(self._plan, self._variant, body, self._own_lines, self._request_id)

    def _drop_copies(self) -> None:
        """The body was let go before it was complete."""
        for copy in self._copies:
            copy.drop("too_large")
        self._copies = NO_COPIES

    @property
    def _complete(self) -> bool:
        """Whether the whole request has been handed over."""
        return self._stream is None or self._stream.complete

    @property
    def _request_bytes(self) -> int:
        return len(self._body) if self._body is not None else self._stream.size if self._stream is not None else 0

    # the response (client.Consumer)

    def response_complete(self, head: ResponseHead, body: bytes) -> None:
        """The common case: the whole answer in one piece."""
        now = perf_counter()
        self._upstream = None
        connection = self._connection
        status = head.status
        if status == 500:
            self._clients_own = blames_client(status, body)
        if connection is None:
            self._observe(status, body)
            self._release()
            return
        if status >= 400:
            alternatives = len(self._variant.pool.available) - 1
            if classify(status, body, alternatives) is Answer.ELSEWHERE:
                if self._backend is not None and self._hedge is None:
                    self._variant.failed_at(self._backend, body)
                if self._may_retry(None):
                    self._retry()
                    return
            if self._plan.route.config.scrub_errors and b"content-encoding" not in head.fields:
                body = without_paths(body)
        same = head.content_length == len(body)
        fields = head.sized if same else head.block + b"Content-Length: %d\r\n" % len(body)
        data = self._response_head(now, fields, connection) + body
        failed = self._plan.stream and STREAM_ERROR in body
        self._observe(status, body)
        self._settle_answered(head, failed, len(body), [body] if self._keeps_answer else None)
        self._connection = None
        self._release()
        connection.finish(data)

    def response_start(self, head: ResponseHead) -> None:
        """The head of a longer answer."""
        now = perf_counter()
        if self._hedge is not None:
            self._end_hedge()
        self._observe(head.status)
        connection = self._connection
        if connection is None:
            self._drop_upstream()  # it starts to write: closing now tells Triton that nobody listens
            self._release()
            return
        chunked = head.content_length < 0 and self._head.http11
        if head.content_length < 0 and not chunked:
            connection.keep_alive = False
        fields = head.sized + b"Transfer-Encoding: chunked\r\n" if chunked else head.sized
        connection.write(self._response_head(now, fields, connection))
        self._response = head
        keep_bytes = self._plan.route.max_sampled_bytes if self._keeps_answer else -1
        self._relay = Relay(connection, chunked, self._plan.stream, keep_bytes)

    def _response_head(self, now: float, fields: bytes, connection: ClientConnection) -> bytes:
        """Status line and all fields towards the client; notes how long it took to get here."""
        self._upstream_s = upstream_s = now - self._sent_at
        self._total_s = total_s = now - self._started_at
        return b"%b%bx-request-id: %b\r\nserver-timing: gateway;dur=%.2f, upstream;dur=%.2f\r\n%b\r\n" % (
            fields,
            self._variant.stamp,
            self._request_id,
            (total_s - upstream_s) * 1e3,
            upstream_s * 1e3,
            connection.connection_header,
        )

    def response_data(self, data: bytes | memoryview) -> None:
        """A slice of a longer answer."""
        if self._connection is not None and self._relay is not None and data:
            self._relay.pass_on(data)

    def response_end(self) -> None:
        """The end of a longer answer."""
        self._upstream = None
        connection, self._connection = self._connection, None
        relay = self._relay
        if connection is None or relay is None:
            self._release()
            return
        self._settle_answered(self._response, relay.failed, relay.size, relay.kept)
        self._release()
        connection.finish(relay.last)

    def response_failed(self, fault: Fault) -> None:
        """The connection to the backend broke, or its bytes are no HTTP."""
        upstream, self._upstream = self._upstream, None
        stale = upstream is not None and upstream.used > 0 and not upstream.got_bytes
        if self._backend is not None and not stale:
            self._backend.observe(False)
        if self._connection is None:
            self._release()
        elif self._relay is not None:
            self._fail(fault)
        else:
            self._attempt_failed(fault, stale)

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

    # endings

    def on_deadline(self) -> None:
        """The deadline passed: answer, then linger; or lingering passed its own bound."""
        connection = self._connection
        if connection is None:
            self._drop_upstream()
            self._release()
            return
        if self._backend is not None and self._complete and self._plan.timeout_s >= self._plan.route.timeout_s:
            self._backend.observe(False)  # it had all the time that the route's owner gives
        self._linger_or_release(Outcome.TIMEOUT)
        if self._relay is not None:
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
        self._end_hedge()
        service = self._service
        if self._upstream is not None and self._complete and self._relay is None:
            service.deadlines.discard(self)
            self.deadline = perf_counter() + service.limits.linger_s
            service.deadlines.add(self)
        else:
            self._drop_upstream()
            self._release()

    def _fail(self, fault: Fault) -> None:
        """Ends with an answer made by the gateway, or by cutting off an answer already begun."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._settle(observe.outcome_of_fault(fault))
        self._release()
        if connection is None:
            return
        if self._relay is not None:
            connection.abort()
        else:
            self._service.answer_fault(connection, fault, self._plan.route.name, self._request_id)

    @property
    def _keeps_answer(self) -> bool:
        """Whether somebody will look at the answer's body."""
        return self._drawn or (
            self._copies is not NO_COPIES and any(copy.shadow.config.compare for copy in self._copies)
        )

    def _settle_answered(self, head: ResponseHead, failed: bool, size: int, kept: list[bytes] | None) -> None:
        """Counts an answer that reached the client whole, and hands it on to whoever looks at it."""
        outcome = observe.outcome_of(400 if self._clients_own else head.status, failed)
        state = self._plan.route.state
        if state.adaptive is not None and outcome is Outcome.OK:
            state.observe(self._upstream_s, perf_counter())  # without the line, which is long only because of the limit
        observe.answered(
            self._counts,
            self._plan,
            head.status,
            outcome,
            total_s=self._total_s,
            upstream_s=self._upstream_s,
            request_bytes=self._request_bytes,
            response_bytes=size,
        )
        if self._service.access is not None:
            self._log_access(outcome, head.status, size)
        if kept is not None and outcome is Outcome.OK and size <= self._plan.route.max_sampled_bytes:
            sample = evidence.sample(self._counts, self._request_id, self._plan.key, head, b"".join(kept))
            if self._drawn:
                self._service.sampler.add(sample)
            for copy in self._copies:
                copy.answer_of_original(sample)

    def _settle(self, outcome: Outcome) -> None:
        """Counts an end without a whole answer."""
        after_s = perf_counter() - self._started_at
        observe.ended(self._counts, self._plan, outcome, after_s, self._request_bytes)
        if self._service.access is not None:
            self._log_access(outcome, 0, 0)

    def _log_access(self, outcome: Outcome, status: int, size: int) -> None:
        """Writes a line if this request is drawn."""
        access, plan, backend = self._service.access, self._plan, self._backend
        if access is not None and access.drawn():
            access.line(
                request_id=self._request_id.decode("ascii"),
                route=plan.route.name,
                variant=self._variant.config.name,
                backend=backend.url if backend is not None else "",
                caller=plan.principal.name if plan.principal is not None else "",
                outcome=outcome.name.lower(),
                status=status,
                attempts=self._attempts,
                request_bytes=self._request_bytes,
                response_bytes=size,
                total_ms=round((perf_counter() - self._started_at) * 1e3, 3),
                upstream_ms=round(self._upstream_s * 1e3, 3),
            )

    def _release(self) -> None:
        """Gives back the lease, the slot and the memory, once."""
        if not self._admitted:
            return
        self._admitted = False
        service = self._service
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.in_flight -= 1
        if self._hedge is not None:
            self._end_hedge()
        self._plan.route.state.in_flight -= 1
        service.in_flight -= 1
        if self._body is not None:
            service.claim(-len(self._body))
        elif self._stream is not None:
            self._stream.let_go()
        service.deadlines.discard(self)
        if self._retrying:
            service.retrying -= 1
        if service.lines:
            service.next_in_line()
