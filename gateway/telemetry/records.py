"""What a worker counts and reports: plain integers, cumulative since the worker started, summable over workers.

Cumulative counts make a report idempotent: a lost, repeated or late one does no harm, and a controller that starts
anew knows all again after a second.
"""

from enum import IntEnum

import msgspec

from gateway.core.histogram import BUCKETS


class Outcome(IntEnum):
    """How one inference of a variant ended."""

    OK = 0
    CLIENT_ERROR = 1
    UPSTREAM_ERROR = 2
    TIMEOUT = 3
    CONNECT_ERROR = 4
    SHED = 5
    CANCELLED = 6


class VariantCounts(msgspec.Struct, kw_only=True):
    """One variant of one route in one epoch.

    Attributes:
        pinned: requests whose variant was not drawn by the split (version, header, rule, running sequence); they are
            no evidence, because nobody drew them at random.
        assigned: requests given to the variant, before admission.
        outcomes: requests by `Outcome`.
        latency: answered requests by latency bucket (core.histogram), first byte in to response head out.
        latency_us: sum of those latencies.
        upstream_us: sum of the parts spent waiting for Triton.
        request_bytes: bodies received.
        response_bytes: bodies sent.
        statuses: answers by HTTP status.
        bins: decoded predictions by class or score bin (see Route.evidence).
    """

    route: str
    variant: str
    epoch: int
    pinned: bool = False
    assigned: int = 0
    outcomes: list[int] = msgspec.field(default_factory=lambda: [0] * len(Outcome))
    latency: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)
    latency_us: int = 0
    upstream_us: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    statuses: dict[int, int] = msgspec.field(default_factory=dict)
    bins: dict[str, int] = msgspec.field(default_factory=dict)


class ShadowCounts(msgspec.Struct, kw_only=True):
    """Copies sent to one shadow of one route in one epoch; `dropped` counts by reason those never sent."""

    route: str
    variant: str
    epoch: int
    sent: int = 0
    ok: int = 0
    errors: int = 0
    timeouts: int = 0
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    latency: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)
    compared: int = 0
    disagreed: int = 0


class BackendStatus(msgspec.Struct, kw_only=True):
    """One backend as this worker sees it."""

    pool: str
    url: str
    state: str
    in_flight: int
    idle: int
    connects: int
    connect_failures: int
    ejections: int
    failures: int
    requests: int


class WorkerReport(msgspec.Struct, kw_only=True, tag="report"):
    """All that one worker knows, sent once a second.

    Attributes:
        worker: its slot, 0 to workers - 1.
        incarnation: changes when the process in that slot does.
        generation: of the route table it serves.
        faults: answers made by the gateway itself, by (route or empty, fault code).
    """

    worker: int
    incarnation: str
    pid: int
    generation: int
    uptime_s: float
    draining: bool
    variants: list[VariantCounts]
    shadows: list[ShadowCounts]
    backends: list[BackendStatus]
    faults: list[tuple[str, str, int]]
    connections: int
    accepted: int
    in_flight: int
    buffered_bytes: int
    retries: int
    rss_bytes: int
