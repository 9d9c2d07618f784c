"""Settings of tracing."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le, Len

from gateway.core.pool import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Spans of sampled inferences, sent to an OpenTelemetry collector; needs the extra `otel`.

    A request whose `traceparent` says that its trace is recorded is recorded too, one whose `traceparent` says it is
    not is not; `sample` decides about the others.

    Attributes:
        endpoint: the collector's address for traces over HTTP, as in http://127.0.0.1:4318/v1/traces. Headers that it
            wants, credentials among them, come from the environment variable OTEL_EXPORTER_OTLP_HEADERS.
        sample: share of the inferences without a `traceparent` that is recorded, in per cent.
        max_per_s: traces of each worker and second; what is beyond is not recorded, whatever clients say.
    """

    __pydantic_config__: ClassVar = STRICT

    endpoint: Annotated[str, Len(8, 2000)]
    sample: Annotated[float, Ge(0), Le(100)] = 1.0
    max_per_s: Annotated[int, Gt(0), Le(10_000)] = 100
