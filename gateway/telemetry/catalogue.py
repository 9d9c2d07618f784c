"""What `/metrics` holds, read off the code that writes it: names, kinds, labels, and what the labels' values mean."""

from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric

from gateway.core.rollout_table import Phase
from gateway.core.verdict import Outcome as GateOutcome
from gateway.telemetry.ledger import Totals
from gateway.telemetry.metrics import DeliverySnapshot, Snapshot, delivery_families, families
from gateway.telemetry.records import Outcome

_SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
_NOTHING: Final = Snapshot(
    generation=0, routes=(), totals=Totals(), live=(), configured_workers=0, incarnations={}, version=""
)
_NO_DELIVERY: Final = DeliverySnapshot(
    routes=(), rollouts=(), finished={}, accuracy={}, compared={}, samples={}, missing=(), mended=0, events={}
)


def _values(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]


LABELS: Final = {
    "route": "a route's name; `sluice_faults_total` has it empty where none was named",
    "variant": "a variant's name",
    "candidate": "the variant that a rollout gives traffic to",
    "model": "name of the model in Triton",
    "model_version": "its version; empty where Triton chooses",
    "outcome": f"of a request: {_values(o.name.lower() for o in Outcome)}; of a copy: `ok`, `error`, `timeout`; "
    f"of a gate: {_values(o.value for o in GateOutcome)}",
    "code": "an HTTP status; of a fault: its name in `gateway/errors.py`",
    "reason": "`busy` (a bound is reached), `backend_queue`, `no_backend`, `paused` (its answers were too long), "
    "`too_large`",
    "pool": "a pool's name",
    "backend": "a backend's URL",
    "state": "of a backend: `up`, `down` (probes), `ejected` (observations), `drained`; "
    "of a missing model: Triton's word",
    "worker": "a worker's slot, from 0",
    "phase": f"of a rollout: {_values(p.value for p in Phase)}",
    "gate": "`errors`, `latency`, `drift`, `accuracy`, `guardrails`, `shadow`",
    "arm": "`shadow` (copy to the candidate), `noise` (copy to the variant that answered the client)",
    "result": "of feedback: `correct`, `wrong`; of comparisons: `same`, `different`; of samples: `taken`, `dropped`, "
    "`unreadable`, `joined`, `early`, `mismatch`; of events: `delivered`, `failed_attempt`, `given_up`",
    "version": "of Sluice",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family as a query names it.

    Attributes:
        name: with `_total` where it is a counter.
        kind: counter, gauge or histogram.
        labels: their names, in order.
        text: its help.
        series: every name its samples have.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str
    series: tuple[str, ...]


def catalogue() -> list[Family]:
    """Every family that the gateway can expose, by name."""
    found = families(_NOTHING, delivery_families(_NO_DELIVERY))
    return sorted((_family(metric) for metric in found), key=lambda family: family.name)


def _family(metric: Metric) -> Family:
    suffixes = _SUFFIXES[metric.type]
    return Family(
        name=metric.name + (suffixes[0] if metric.type == "counter" else ""),
        kind=metric.type,
        labels=tuple(getattr(metric, "_labelnames", ())),
        text=metric.documentation,
        series=tuple(metric.name + suffix for suffix in suffixes),
    )
