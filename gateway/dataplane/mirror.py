"""Copies of sampled requests for shadows: bounded, off the response's path, answers never seen by a client.

A copy has its own pool, connections, bound and deadline. Whatever happens to it is counted and forgotten.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from random import random
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from gateway.core.histogram import index
from gateway.dataplane import evidence
from gateway.dataplane.affinity import SequenceStep
from gateway.dataplane.plan import InferPlan
from gateway.dataplane.pool import BackendRuntime
from gateway.dataplane.table import RouteRuntime, ShadowRuntime, VariantRuntime
from gateway.errors import Fault
from gateway.http.client import UpstreamConnection
from gateway.http.head import ResponseHead
from gateway.telemetry.records import Answer, Sample

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

_MAX_BROKEN = 10_000
_JOINED = 64 << 10  # a shorter message goes out as one piece


class ShadowCopy:
    """One copy on its way.

    Attributes:
        noise: it goes to the variant that serves the original.
        on_end: told how it ended, once: `ok`, `error`, `timeout`, or why it was dropped.
        original: the client's own answer, once there is one.
        shadow: which shadow it is for.
        deadline: end of its time, perf_counter seconds.
    """

    __slots__ = (
        "_answer",
        "_backend",
        "_head",
        "_message",
        "_parts",
        "_received",
        "_sent_at",
        "_sequence",
        "_service",
        "_size",
        "_upstream",
        "_variant",
        "deadline",
        "noise",
        "on_end",
        "original",
        "shadow",
    )

    def __init__(self, service: "DataPlane", shadow: ShadowRuntime, sequence: bytes | None, noise: bool) -> None:
        self._service = service
        self._sequence = sequence
        self.shadow = shadow
        self.noise = noise
        self.original: Sample | None = None
        self.on_end: Callable[[str], None] | None = None
        self._answer: Answer | None = None
        self._parts: list[bytes] | None = [] if shadow.config.compare else None
        self._head: ResponseHead | None = None
        self._variant = shadow.variant
        self._backend: BackendRuntime | None = None
        self._upstream: UpstreamConnection | None = None
        self._message: list[bytes | memoryview] = []
        self._size = 0
        self._sent_at = 0.0
        self._received = 0
        self.deadline = 0.0

    def drop(self, reason: str) -> None:
        """Gives the copy up before it was sent, and with it the rest of its sequence."""
        dropped = self.shadow.counts.dropped
        dropped[reason] = dropped.get(reason, 0) + 1
        if self._sequence is not None:
            self._service.mirror.break_off(self._sequence)
        if self.on_end is not None:
            self.on_end(reason)

    def _lease(self) -> BackendRuntime | None:
        """Any backend, but for a sequence always the same one as long as it is there (rendezvous hashing)."""
        pool = self._variant.pool
        if self._sequence is None or not pool.available:
            return pool.lease()
        key = self._sequence
        return pool.lease_on(max(pool.available, key=lambda b: blake2b(b.digest + key, digest_size=8).digest()))

    def send(
        self,
        plan: InferPlan,
        served_by: VariantRuntime,
        body: Sequence[bytes | memoryview],
        header_line: bytes,
        request_id: bytes,
    ) -> None:
        """Sends the copy, or drops it when the shadow is behind; the slices of the body are not copied once more."""
        size = sum(map(len, body))
        if self.noise:
            self._variant = self.shadow.noise_variant(served_by)
        shadow, service = self.shadow, self._service
        if size > shadow.config.max_body_bytes:
            self.drop("too_large")
            return
        if shadow.pause.strikes and shadow.pause.holds(perf_counter(), shadow.in_flight):
            self.drop("paused")
            return
        if shadow.in_flight >= shadow.config.max_in_flight or service.copied + size > service.max_copied:
            self.drop("busy")
            return
        backend = self._lease()
        if backend is None:
            self.drop("no_backend")
            return
        behind = backend.waiting_by_model.get(self._variant.config.model, 0)
        if 0 < shadow.config.max_pending < behind:
            backend.in_flight -= 1
            self.drop("backend_queue")
            return
        shadow.in_flight += 1
        shadow.counts.sent += 1
        self._backend = backend
        head = b"%b%bContent-Length: %d\r\n%bx-sluice-shadow: true\r\nx-request-id: %b\r\n\r\n" % (
            plan.lines(self._variant),
            backend.host_line,
            size,
            header_line,
            request_id,
        )
        self._message = [head, *body] if size > _JOINED else [b"".join((head, *body))]
        self._size = size
        service.copied += size
        self.deadline = perf_counter() + shadow.config.timeout_s
        service.deadlines.add(self)
        upstream = backend.take_idle()
        if upstream is not None:
            self._send(upstream)
        else:
            service.connect(self, backend)

    def connected(self, backend: BackendRuntime, upstream: UpstreamConnection) -> None:
        """A new connection to the shadow's backend is there."""
        if self._backend is backend:
            self._send(upstream)
        else:
            backend.released(upstream)

    def connect_failed(self, backend: BackendRuntime) -> None:
        """The shadow's backend took no connection."""
        if self._backend is backend:
            self._end_badly()

    def _send(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        self._sent_at = perf_counter()
        first, *rest = self._message
        upstream.send(self, first, True, False)
        for part in rest:
            upstream.write(part)

    def response_complete(self, head: ResponseHead, body: bytes) -> None:
        """The shadow answered in one piece."""
        if self._parts is not None:
            self._parts.append(body)
        self._end(head)

    def response_start(self, head: ResponseHead) -> None:
        """The shadow begins a longer answer."""
        self._head = head
        if head.content_length > self.shadow.config.max_response_bytes:
            self._too_long()

    def response_data(self, data: bytes | memoryview) -> None:
        """Read and forgotten, within a bound."""
        self._received += len(data)
        if self._received > self.shadow.config.max_response_bytes:
            self._too_long()
        elif self._parts is not None:
            self._parts.append(bytes(data))

    def _too_long(self) -> None:
        self.shadow.pause.strike(perf_counter())
        self._end_badly()

    def response_end(self) -> None:
        """The longer answer is complete."""
        assert self._head is not None
        self._end(self._head)

    def response_failed(self, fault: Fault) -> None:
        """The shadow's connection broke."""
        self._upstream = None
        self._end_badly()

    def upstream_paused(self, paused: bool) -> None:
        """A copy is held whole, nothing can be slowed down."""

    def on_deadline(self) -> None:
        """The shadow took too long."""
        self.shadow.counts.timeouts += 1
        self._answered(Answer(variant=self._variant.config.name, status=0))
        self._finish("timeout")

    def answer_of_original(self, sample: Sample) -> None:
        """The client's answer, to be looked at beside the copy's."""
        self.original = sample
        self._pair()

    def _answered(self, answer: Answer) -> None:
        if self.shadow.config.compare:
            self._answer = answer
            self._pair()

    def _pair(self) -> None:
        """Queues original and copy once both are there."""
        original, answer = self.original, self._answer
        if original is not None and answer is not None:
            self._service.sampler.add(msgspec.structs.replace(original, copy=answer, noise=self.noise))

    def _end(self, head: ResponseHead) -> None:
        counts = self.shadow.counts
        if self.shadow.pause.strikes:
            self.shadow.pause.clear()
        if self._parts is not None:
            body = b"".join(self._parts)
            self._answered(evidence.answer(self._variant.config.name, head, body))
        if head.status < 400:
            counts.ok += 1
        else:
            counts.errors += 1
        counts.latency[index((perf_counter() - self._sent_at) * 1e6)] += 1
        self._upstream = None
        self._finish("ok" if head.status < 400 else "error")

    def _end_badly(self) -> None:
        self.shadow.counts.errors += 1
        self._answered(Answer(variant=self._variant.config.name, status=0))
        self._finish("error")

    def _finish(self, how: str) -> None:
        """Gives everything back, once."""
        backend, self._backend = self._backend, None
        if backend is None:
            return
        backend.in_flight -= 1
        self.shadow.in_flight -= 1
        self._service.copied -= self._size
        self._message = []
        self._service.deadlines.discard(self)
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self.on_end is not None:
            self.on_end(how)


class Mirror:
    """Draws which requests are copied; a sequence is copied whole or not at all."""

    __slots__ = ("_broken", "_service")

    def __init__(self, service: "DataPlane") -> None:
        self._service = service
        self._broken: dict[bytes, None] = {}  # sequences that lost a copy, oldest first

    def sample(self, route: RouteRuntime, step: SequenceStep | None) -> list[ShadowCopy]:
        """The copies that one request of a route gets, drawn independently for each shadow."""
        if step is None:
            return [
                ShadowCopy(self._service, shadow, None, random() < shadow.noise)
                for shadow in route.shadows
                if random() < shadow.chance
            ]
        if step.start:
            self._broken.pop(step.key, None)
        elif step.key in self._broken:
            return []
        # The key decides, so that every request of a sequence, at every worker, is decided alike.
        point = int.from_bytes(step.key[8:], "little") / 2**64
        return [ShadowCopy(self._service, shadow, step.key, False) for shadow in route.shadows if point < shadow.chance]

    def break_off(self, sequence: bytes) -> None:
        """No further request of this sequence is copied: the shadow has missed one."""
        self._broken[sequence] = None
        if len(self._broken) > _MAX_BROKEN:
            del self._broken[next(iter(self._broken))]
