"""Places requests of sequences: variant and replica are chosen at the first request and kept until the last."""

import time
from typing import TYPE_CHECKING

from gateway import errors
from gateway.core.v2body import sequence_of
from gateway.dataplane.plan import InferPlan
from gateway.dataplane.pool import BackendRuntime
from gateway.dataplane.table import VariantRuntime
from gateway.errors import Fault
from gateway.http.head import RequestHead
from gateway.sequences import Place, SequenceTable, sequence_key, short_digest

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

SEQUENCE_MARK = b'"sequence_id"'
"""Without these bytes in its JSON a request belongs to no sequence."""


class SequenceStep:
    """One request of a sequence.

    Attributes:
        key: stands for the sequence.
        start: its first request; `variant` is then only a proposal of the split.
        end: its last request.
        variant: who serves the sequence.
        backend: the replica that holds it; None at the start.
    """

    __slots__ = ("backend", "end", "key", "start", "variant")

    def __init__(
        self, key: bytes, start: bool, end: bool, variant: VariantRuntime, backend: BackendRuntime | None
    ) -> None:
        self.key = key
        self.start = start
        self.end = end
        self.variant = variant
        self.backend = backend


class Affinity:
    """The worker's view of the node's sequence table."""

    def __init__(self, service: "DataPlane", table: SequenceTable) -> None:
        self._service = service
        self._table = table

    def resolve(self, plan: InferPlan, head: RequestHead, body: bytes) -> SequenceStep | Fault | None:
        """Which sequence a whole request belongs to and where it lives; None when it belongs to none."""
        end = head.header_length if head.header_length >= 0 else len(body)
        if body.find(SEQUENCE_MARK, 0, end) < 0:
            return None
        flags = sequence_of(memoryview(body)[:end])
        if flags is None:
            return None
        route = plan.route
        key = sequence_key(route.name, flags.id)
        if flags.start:
            return SequenceStep(key, True, flags.end, plan.fixed or route.random_variant(), None)
        now_ns = time.monotonic_ns()
        place = self._table.find(key, now_ns, int(max(v.sequence_idle_s for v in route.variants) * 1e9))
        if place is None:
            return errors.NO_SEQUENCE.but(
                f"inference request for sequence {flags.id[1:]} to model '{route.name}' must specify the START flag "
                "on the first request of the sequence: no such sequence runs here, or it has timed out"
            )
        variant = next((v for v in route.variants if short_digest(v.config.name) == place.variant), None)
        held_by = variant.pool.backends if variant is not None else []
        backend = next((backend for backend in held_by if backend.digest == place.backend), None)
        if variant is None or backend is None or not backend.health.available(time.perf_counter()):
            self._table.remove(key)
            return errors.SEQUENCE_LOST
        return SequenceStep(key, False, flags.end, variant, backend)

    def placed(self, step: SequenceStep, backend: BackendRuntime) -> None:
        """Notes where a request of a sequence was sent; an END frees the place."""
        if step.end:
            self._table.remove(step.key)
        elif step.start:
            place = Place(short_digest(step.variant.config.name), backend.digest)
            idle_ns = int(step.variant.sequence_idle_s * 1e9)
            self._table.put(step.key, place, time.monotonic_ns(), idle_ns)

    def lost(self, step: SequenceStep) -> None:
        """The replica failed while it held the sequence."""
        self._table.remove(step.key)
