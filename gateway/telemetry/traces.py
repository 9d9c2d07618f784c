"""Traces with OpenTelemetry's SDK. Imported only where tracing is switched on: it is large, and an extra."""

import socket
import time
from random import random

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.config_tracing import Tracing
from gateway.core.histogram import index
from gateway.telemetry.records import Exemplar

Value = str | int | float | bool
_EXPORT_TIMEOUT_S = 2.0
_QUEUE = 4096
_MAX_EXEMPLARS = 2000
_PROPAGATOR = TraceContextTextMapPropagator()


class Spans:
    """Makes the spans of one worker and keeps its exemplars.

    Spans are handed over in batches by a thread of the SDK's own; what is over its queue is dropped.

    Attributes:
        exemplars: the newest traced request by route, variant and latency bucket.
    """

    def __init__(self, config: Tracing, worker: int, version: str) -> None:
        identity = {
            "service.name": "sluice",
            "service.version": version,
            "service.instance.id": f"{socket.gethostname()}/{worker}",
        }
        exporter = OTLPSpanExporter(endpoint=config.endpoint, timeout=_EXPORT_TIMEOUT_S)
        self._provider = TracerProvider(resource=Resource.create(identity), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_QUEUE))
        self._tracer = self._provider.get_tracer("sluice", version)
        self._share = config.sample / 100
        self._max_per_s = config.max_per_s
        self._second = self._in_second = 0
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()
        self.exemplars: dict[tuple[str, str, int], Exemplar] = {}

    def begin(self, traceparent: bytes | None, name: str, at: float) -> Span | None:
        """The span of a request that arrived at `at` (perf_counter seconds); None when it is not recorded."""
        context = None
        if traceparent is not None:
            context = _PROPAGATOR.extract({"traceparent": traceparent.decode("latin-1")})
            parent = trace.get_current_span(context).get_span_context()
            recorded = bool(parent.trace_flags.sampled) if parent.is_valid else random() < self._share
        else:
            recorded = random() < self._share
        if not recorded or not self._has_room(at):
            return None
        return self._tracer.start_span(name, context, SpanKind.SERVER, start_time=self._ns(at))

    def _has_room(self, at: float) -> bool:
        if int(at) != self._second:
            self._second, self._in_second = int(at), 0
        self._in_second += 1
        return self._in_second <= self._max_per_s

    def child(self, parent: Span, name: str, kind: SpanKind, at: float, **attributes: Value) -> Span:
        """A part of a request; `kind` says whether it calls somebody."""
        within = trace.set_span_in_context(parent)
        return self._tracer.start_span(name, within, kind, _dotted(attributes), start_time=self._ns(at))

    def end(self, span: Span, at: float, failed: str = "", **attributes: Value) -> None:
        """Ends a span; `failed` says why it is an error."""
        span.set_attributes(_dotted(attributes))
        if failed:
            span.set_status(StatusCode.ERROR, failed)
        span.end(self._ns(at))

    def remember(self, span: Span, route: str, variant: str, took_s: float) -> None:
        """Makes a request the example of its latency bucket."""
        if len(self.exemplars) >= _MAX_EXEMPLARS:
            self.exemplars.clear()
        latency_us = int(took_s * 1e6)
        self.exemplars[route, variant, index(latency_us)] = Exemplar(
            route=route,
            variant=variant,
            trace_id=trace.format_trace_id(span.get_span_context().trace_id),
            latency_us=latency_us,
            at=time.time(),
        )

    def close(self) -> None:
        """Sends what is left; takes a few seconds at most."""
        self._provider.shutdown()

    def _ns(self, at: float) -> int:
        return self._epoch_ns + int(at * 1e9)


def header_line(span: Span) -> bytes:
    """The `traceparent` field that makes a span the parent of what the receiver does."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return f"traceparent: {carrier['traceparent']}\r\n".encode()


def _dotted(attributes: dict[str, Value]) -> dict[str, Value]:
    """Attributes by their real names: `__` stands for the dot, which a keyword cannot have."""
    return {name.replace("__", "."): value for name, value in attributes.items()}
