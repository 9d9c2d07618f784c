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
        latency: requests that ended ok or timed out by latency bucket (core.histogram), head in to response head out.
        latency_us: sum of those latencies.
        upstream_us: sum of the parts spent waiting for Triton.
        request_bytes: bodies received.
        response_bytes: bodies sent.
        statuses: answers by HTTP status.
        bins: predictions by class or score bin; left empty by workers, filled by the controller from samples.
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
    """Copies sent to one shadow of one route in one epoch; `dropped` counts by reason those never sent.

    `compared` and `disagreed` are left zero by workers and filled by the controller from samples.
    """

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


class Answer(msgspec.Struct, kw_only=True):
    """One answer of a backend, as it came.

    Attributes:
        variant: who gave it.
        status: HTTP status; 0 when none came.
        header_length: Inference-Header-Content-Length, -1 for plain JSON.
        encoding: Content-Encoding, empty for none.
        body: at most `Evidence.max_body_bytes`.
    """

    variant: str
    status: int
    header_length: int = -1
    encoding: str = ""
    body: bytes = b""


class Sample(msgspec.Struct, kw_only=True):
    """One good answer to be looked at: for itself (predictions, feedback), or beside the answer of a copy.

    Attributes:
        epoch: of the table that assigned it.
        pinned: the variant was not drawn by the split.
        request_id: what feedback refers to.
        key: hash of the sticky key, 0 where the split was by chance.
        original: what the client got.
        copy: the shadow's answer, where the request was copied for comparison.
        noise: the copy went to the variant that served the original.
    """

    route: str
    epoch: int
    pinned: bool
    request_id: str
    key: int
    original: Answer
    copy: Answer | None = None
    noise: bool = False


class Samples(msgspec.Struct, kw_only=True, tag="samples"):
    """Samples of one worker since its last such message; `dropped` of them were over a bound."""

    worker: int
    incarnation: str
    samples: list[Sample]
    dropped: int


class NewKeys(msgspec.Struct, kw_only=True):
    """Sticky keys seen for the first time in a check since the last report (see docs/delivery.md).

    Attributes:
        check: assigned | server | client | shed | slow.
        hashes: 64-bit hashes of the keys.
    """

    route: str
    epoch: int
    variant: str
    check: str
    hashes: list[int]


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


class Exemplar(msgspec.Struct, kw_only=True):
    """One traced request that stands for its latency bucket; `at` is Unix time."""

    route: str
    variant: str
    trace_id: str
    latency_us: int
    at: float


class WorkerReport(msgspec.Struct, kw_only=True, tag="report"):
    """All that one worker knows, sent once a second, or more often while a route is judged.

    Attributes:
        worker: its slot, 0 to workers - 1.
        incarnation: changes when the process in that slot does.
        generation: of the route table it serves.
        new_keys: increments, unlike everything else here.
        faults: answers made by the gateway itself, by (route or empty, fault code).
        exemplars: the newest traced request of each variant and latency bucket.
    """

    worker: int
    incarnation: str
    pid: int
    generation: int
    uptime_s: float
    draining: bool
    variants: list[VariantCounts]
    new_keys: list[NewKeys]
    shadows: list[ShadowCounts]
    backends: list[BackendStatus]
    faults: list[tuple[str, str, int]]
    connections: int
    accepted: int
    in_flight: int
    buffered_bytes: int
    retries: int
    rss_bytes: int
    exemplars: list[Exemplar] = []
