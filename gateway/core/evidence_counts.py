"""What is counted per arm, and the one-second blocks that the tests take in. Sums in any order give the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gateway.core.histogram import BUCKETS


def _add(a: Mapping[Any, float], b: Mapping[Any, float], sign: int) -> dict[Any, Any]:
    total = dict(a)
    for key, value in b.items():
        total[key] = total.get(key, 0) + sign * value
    return {key: value for key, value in total.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """Randomly assigned requests of one arm, by outcome. Names and meanings: docs/delivery.md.

    Attributes:
        assigned: requests the split gave to the arm.
        ok: answered well.
        client_error: 4xx from the backend.
        upstream_error: 5xx, or a broken answer.
        timeout: no answer in time.
        connect_error: no connection.
        shed: refused at admission.
        cancelled: the client left first.
        latency: answered or timed out requests by bucket of `core.histogram`.
        predictions: sampled answers by bin, 1 in all per request.
        shadow_compared: copies compared with the original.
        shadow_disagreed: copies that differed or failed.
        feedback_correct: answers that ground truth confirmed, 1 in all per request.
        feedback_wrong: answers it refuted.
    """

    assigned: int = 0
    ok: int = 0
    client_error: int = 0
    upstream_error: int = 0
    timeout: int = 0
    connect_error: int = 0
    shed: int = 0
    cancelled: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)
    predictions: Mapping[int, float] = field(default_factory=dict)
    shadow_compared: int = 0
    shadow_disagreed: int = 0
    feedback_correct: float = 0.0
    feedback_wrong: float = 0.0

    def _with(self, other: "ArmCounts", sign: int) -> "ArmCounts":
        values: dict[str, Any] = {}
        for name in _NAMES:
            a, b = getattr(self, name), getattr(other, name)
            values[name] = _add(a, b, sign) if isinstance(a, Mapping) else a + sign * b
        return ArmCounts(**values)

    def plus(self, other: "ArmCounts") -> "ArmCounts":
        """Both together."""
        return self._with(other, 1)

    def minus(self, earlier: "ArmCounts") -> "ArmCounts":
        """What was added since an earlier look at the same cumulative counts."""
        return self._with(earlier, -1)

    @property
    def server_bad(self) -> int:
        """Requests that the backend failed."""
        return self.upstream_error + self.timeout + self.connect_error

    @property
    def ended(self) -> int:
        """Requests with an outcome that somebody answers for (all but cancelled ones)."""
        return self.ok + self.client_error + self.server_bad + self.shed

    def slower(self, bucket: int) -> int:
        """Timed requests in buckets above `bucket`."""
        return sum(count for at, count in self.latency.items() if at > bucket)

    @property
    def timed(self) -> int:
        """Requests with a latency."""
        return sum(self.latency.values())

    def quantile_bucket(self, q: float) -> int | None:
        """The lowest bucket that at least q of the timed requests do not exceed; None without any."""
        total = self.timed
        if not total:
            return None
        below = 0
        for bucket in range(BUCKETS):
            below += self.latency.get(bucket, 0)
            if below >= q * total:
                return bucket
        return BUCKETS - 1


_NAMES = tuple(f.name for f in fields(ArmCounts))
NOTHING = ArmCounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One second of one rollout: differences of the arms' cumulative counts between two looks.

    Attributes:
        epoch: of the weights under which the requests were assigned.
        share: the candidate's chance among candidate and reference; 0 or 1 where nothing is compared.
        candidate: the candidate's counts; its shadow counts are the copies sent to the candidate.
        reference: of the arm it is compared with (the equal baseline, or all other traffic); its shadow counts are
            the noise arm.
        old: of all traffic of the old version, baseline included; equals `reference` without a baseline arm.
        keys: sticky routes: new keys per check, as (candidate, reference); see `core.evidence_keys`.
    """

    epoch: int
    share: float
    candidate: ArmCounts = NOTHING
    reference: ArmCounts = NOTHING
    old: ArmCounts = NOTHING
    keys: Mapping[str, tuple[float, float]] | None = None
