"""An exchange that is recorded: spans for the request, its admission, each attempt and each copy.

A class of its own, so that requests which are not recorded pay nothing.
"""

import re
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span, SpanKind

from gateway.dataplane import observe
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.hedge import Hedge
from gateway.dataplane.plan import InferPlan
from gateway.dataplane.pool import BackendRuntime
from gateway.dataplane.table import VariantRuntime
from gateway.errors import Fault
from gateway.http.client import UpstreamConnection
from gateway.http.connection import ClientConnection
from gateway.http.head import RequestHead, ResponseHead
from gateway.telemetry.records import Outcome
from gateway.telemetry.traces import Spans, header_line

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

_CLIENTS_OWN = re.compile(rb"(?im)^traceparent:[^\r]*\r\n")


class TracedPlan(InferPlan):
    """A plan for one request, whose forwarded fields name the span that sends them.

    Attributes:
        parent: the `traceparent` line of that span.
    """

    __slots__ = ("parent",)

    def __init__(self, plan: InferPlan) -> None:
        for name in InferPlan.__slots__:
            setattr(self, name, getattr(plan, name))
        self._fields = _CLIENTS_OWN.sub(b"", plan._fields)
        self._lines = {}
        self.parent = b""

    def lines(self, variant: VariantRuntime) -> bytes:
        """Request line and forwarded fields, with the present span as parent."""
        return super().lines(variant) + self.parent


class TracedExchange(Exchange):
    """An exchange with its spans; takes what an exchange takes, after the spans and its own one."""

    __slots__ = ("_attempt_span", "_own", "_root", "_spans")

    def __init__(self, spans: Spans, root: Span, service: "DataPlane", *rest: Any) -> None:
        super().__init__(service, *rest)
        self._spans = spans
        self._root = root
        self._attempt_span: Span | None = None
        self._plan = self._own = TracedPlan(self._plan)
        self._own_lines = _CLIENTS_OWN.sub(b"", self._own_lines)

    def start(self) -> None:
        """The request has a slot: what came before was admission."""
        now = perf_counter()
        admission = self._spans.child(self._root, "admission", SpanKind.INTERNAL, self._started_at)
        self._spans.end(admission, now)
        super().start()

    def _reject(self, fault: Fault) -> None:
        super()._reject(fault)
        self._end_root(Outcome.SHED, fault.status, fault.code)

    def _attempt(self, avoid: BackendRuntime | None, fresh: bool = False) -> None:
        self._end_attempt("tried again")
        span = self._spans.child(
            self._root, "attempt", SpanKind.CLIENT, perf_counter(), sluice__attempt=self._attempts + 1
        )
        self._attempt_span = span
        self._own.parent = header_line(span)
        super()._attempt(avoid, fresh)

    def _send(self, upstream: UpstreamConnection) -> None:
        if self._attempt_span is not None and self._backend is not None:
            self._attempt_span.set_attribute("server.address", self._backend.url)
            self._attempt_span.set_attribute("sluice.new_connection", upstream.used == 0)
        super()._send(upstream)

    def taken_over(self, hedge: Hedge) -> None:
        """The second attempt won."""
        backend = hedge.backend
        super().taken_over(hedge)
        if self._attempt_span is not None and backend is not None:
            self._attempt_span.add_event("hedge won", {"server.address": backend.url})

    def _attempt_failed(self, fault: Fault, stale: bool = False) -> None:
        self._end_attempt("stale connection" if stale else fault.code)
        super()._attempt_failed(fault, stale)

    def _send_copies(self, body: Sequence[bytes | memoryview]) -> None:
        sender = self._own.parent
        for copy in self._copies:
            span = self._spans.child(
                self._root,
                "mirror",
                SpanKind.CLIENT,
                perf_counter(),
                sluice__variant=copy.shadow.config.variant,
                sluice__noise=copy.noise,
            )
            self._own.parent = header_line(span)
            copy.on_end = _Copied(self._spans, span).ended
            copy.send(self._plan, self._variant, body, self._own_lines, self._request_id)
        self._own.parent = sender

    def _settle_answered(self, head: ResponseHead, failed: bool, size: int, kept: list[bytes] | None) -> None:
        super()._settle_answered(head, failed, size, kept)
        self._end_attempt(
            f"status {head.status}" if head.status >= 400 else "", http__response__status_code=head.status
        )
        from_answer = observe.outcome_of(400 if self._clients_own else head.status, failed)
        self._spans.remember(self._root, self._plan.route.name, self._variant.config.name, self._total_s)
        self._end_root(from_answer, head.status, "" if from_answer is Outcome.OK else from_answer.name.lower())

    def _settle(self, outcome: Outcome) -> None:
        super()._settle(outcome)
        self._end_attempt(outcome.name.lower())
        self._end_root(outcome, 0, outcome.name.lower())

    def _end_attempt(self, failed: str, **attributes: str | int) -> None:
        span, self._attempt_span = self._attempt_span, None
        if span is not None:
            self._spans.end(span, perf_counter(), failed, **attributes)

    def _end_root(self, outcome: Outcome, status: int, failed: str) -> None:
        attributes: dict[str, str | int] = {
            "sluice.route": self._plan.route.name,
            "sluice.variant": self._variant.config.name,
            "sluice.request_id": self._request_id.decode("latin-1"),
            "sluice.outcome": outcome.name.lower(),
            "sluice.attempts": self._attempts,
            "http.request.method": "POST",
        }
        if status:
            attributes["http.response.status_code"] = status
        self._spans.end(self._root, perf_counter(), failed, **attributes)


class _Copied:
    """Ends a copy's span."""

    __slots__ = ("_span", "_spans")

    def __init__(self, spans: Spans, span: Span) -> None:
        self._spans = spans
        self._span = span

    def ended(self, how: str) -> None:
        """How the copy ended: ok, or why not."""
        self._spans.end(self._span, perf_counter(), "" if how == "ok" else how, sluice__outcome=how)


class Recorder:
    """Makes exchanges, recorded ones among them: what a worker uses where tracing is switched on."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def exchange(
        self,
        service: "DataPlane",
        connection: ClientConnection,
        head: RequestHead,
        plan: InferPlan,
        *rest: Any,
    ) -> Exchange:
        """An exchange, recorded if the request is drawn or its client says so."""
        arrived_at = rest[4] if len(rest) > 4 else 0.0
        now = arrived_at or perf_counter()
        root = self._spans.begin(head.fields.get(b"traceparent"), f"infer {plan.route.name}", now)
        if root is None:
            return Exchange(service, connection, head, plan, *rest)
        return TracedExchange(self._spans, root, service, connection, head, plan, *rest)
