"""Every metric family of Sluice. Labels come from configuration and fixed sets, never from clients."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as OpenMetricsExemplar

from gateway.core.histogram import BOUNDS_US, index
from gateway.core.rollout_table import FINAL
from gateway.core.route import Route
from gateway.telemetry.ledger import Totals
from gateway.telemetry.records import Exemplar, Outcome, WorkerReport

# Six of the recorded bounds per decade, so that counts are exact and the usual objectives (20, 50, 100 ms) are there.
BUCKET_BOUNDS_US = tuple(us for us in BOUNDS_US if str(us).rstrip("0") in {"1", "14", "2", "315", "5", "71"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the controller knows at the moment of a scrape.

    Attributes:
        generation: of the published table.
        routes: of the published table.
        totals: sums over workers.
        live: last report of each connected worker.
        configured_workers: how many there should be.
        incarnations: processes each slot has had so far.
        version: of Sluice.
    """

    generation: int
    routes: tuple[Route, ...]
    totals: Totals
    live: Sequence[WorkerReport]
    configured_workers: int
    incarnations: dict[int, int]
    version: str


def render(snapshot: Snapshot, more: Iterable[Metric] = (), accept: str = "") -> tuple[bytes, str]:
    """A snapshot as a scraper wants it, and its content type: OpenMetrics, which has exemplars, or the plain text."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(lambda: families(snapshot, more)))
    return encode(registry), content_type


class _Families(Collector):
    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()

    def describe(self) -> Iterable[Metric]:
        return ()


def families(snapshot: Snapshot, more: Iterable[Metric] = ()) -> Iterator[Metric]:
    """Every family, those without samples too."""
    yield from _requests(snapshot)
    yield from _shadows(snapshot.totals)
    yield from _backends(snapshot)
    yield from _routes(snapshot)
    yield from _workers(snapshot)
    yield from more


def _requests(snapshot: Snapshot) -> Iterator[Metric]:
    totals, exemplars = snapshot.totals, _newest(snapshot.live)
    by_variant = ["route", "variant"]
    requests = CounterMetricFamily("sluice_requests", "Inferences by how they ended.", labels=[*by_variant, "outcome"])
    codes = CounterMetricFamily("sluice_responses", "Answers by HTTP status.", labels=[*by_variant, "code"])
    duration = HistogramMetricFamily(
        "sluice_request_duration_seconds", "First byte in to response head out.", labels=by_variant
    )
    upstream = CounterMetricFamily("sluice_upstream_seconds", "Time spent waiting for Triton.", labels=by_variant)
    received = CounterMetricFamily("sluice_request_bytes", "Request bodies received.", labels=by_variant)
    sent = CounterMetricFamily("sluice_response_bytes", "Response bodies sent.", labels=by_variant)
    for key, row in totals.variants.items():
        for outcome in Outcome:
            requests.add_metric([*key, outcome.name.lower()], row.outcomes[outcome])
        for status, count in sorted(row.statuses.items()):
            codes.add_metric([*key, str(status)], count)
        duration.add_metric(key, *_histogram(row.latency, row.latency_us, exemplars.get(key)))
        upstream.add_metric(key, row.upstream_us / 1e6)
        received.add_metric(key, row.request_bytes)
        sent.add_metric(key, row.response_bytes)
    faults = CounterMetricFamily("sluice_faults", "Answers made by the gateway itself.", labels=["route", "code"])
    for fault, count in totals.faults.items():
        faults.add_metric(fault, count)
    retries = CounterMetricFamily("sluice_retries", "Further attempts after a failed one.", value=totals.retries)
    accepted = CounterMetricFamily("sluice_connections_accepted", "Client connections.", value=totals.accepted)
    yield from (requests, codes, duration, upstream, received, sent, faults, retries, accepted)


def _shadows(totals: Totals) -> Iterator[Metric]:
    labels = ["route", "variant"]
    copies = CounterMetricFamily("sluice_shadow_requests", "Copies by how they ended.", labels=[*labels, "outcome"])
    dropped = CounterMetricFamily("sluice_shadow_dropped", "Copies never sent, by reason.", labels=[*labels, "reason"])
    duration = HistogramMetricFamily("sluice_shadow_duration_seconds", "Duration of copies.", labels=labels)
    for key, row in totals.shadows.items():
        for outcome, count in (("ok", row.ok), ("error", row.errors), ("timeout", row.timeouts)):
            copies.add_metric([*key, outcome], count)
        for reason, count in sorted(row.dropped.items()):
            dropped.add_metric([*key, reason], count)
        duration.add_metric(key, *_histogram(row.latency, None))
    yield from (copies, dropped, duration)


def _backends(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ["pool", "backend"]
    counters = {
        "requests": CounterMetricFamily("sluice_backend_requests", "Requests sent to a backend.", labels=labels),
        "failures": CounterMetricFamily("sluice_backend_failures", "Requests that failed there.", labels=labels),
        "connects": CounterMetricFamily("sluice_backend_connects", "Connections opened.", labels=labels),
        "connect_failures": CounterMetricFamily(
            "sluice_backend_connect_failures", "Connections that could not be opened.", labels=labels
        ),
        "ejections": CounterMetricFamily("sluice_backend_ejections", "Times a worker took it out.", labels=labels),
    }
    for key, row in snapshot.totals.backends.items():
        for name, family in counters.items():
            family.add_metric(key, row[name])
    yield from counters.values()
    in_flight = GaugeMetricFamily("sluice_backend_in_flight", "Leases under way.", labels=labels)
    idle = GaugeMetricFamily("sluice_backend_idle_connections", "Kept connections.", labels=labels)
    states = GaugeMetricFamily("sluice_backend_workers", "Workers by the state they see.", labels=[*labels, "state"])
    seen: Counter[tuple[str, str, str]] = Counter()
    load: Counter[tuple[str, str]] = Counter()
    kept: Counter[tuple[str, str]] = Counter()
    for report in snapshot.live:
        for status in report.backends:
            key = status.pool, status.url
            seen[(*key, status.state)] += 1
            load[key] += status.in_flight
            kept[key] += status.idle
    for key in load:
        in_flight.add_metric(key, load[key])
        idle.add_metric(key, kept[key])
    for state, count in seen.items():
        states.add_metric(state, count)
    yield from (in_flight, idle, states)


def _routes(snapshot: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("sluice_generation", "Generation of the published table.", value=snapshot.generation)
    labels = ["route", "variant", "model", "model_version"]
    weights = GaugeMetricFamily("sluice_route_weight_ratio", "Share of a route's traffic, 0 to 1.", labels=labels)
    for route in snapshot.routes:
        for variant in route.variants:
            weights.add_metric([route.name, variant.name, variant.model, variant.version], variant.weight / 100)
    yield weights


_Gauges = tuple[tuple[str, str, Callable[[WorkerReport], float]], ...]
_OF_THE_NEWEST: _Gauges = (
    ("sluice_worker_generation", "Generation the worker serves.", lambda r: r.generation),
    ("sluice_worker_uptime_seconds", "Time since the worker started.", lambda r: r.uptime_s),
    ("sluice_worker_draining", "1 while the worker drains.", lambda r: float(r.draining)),
)
_ADDED_UP: _Gauges = (
    ("sluice_worker_connections", "Open client connections.", lambda r: r.connections),
    ("sluice_worker_in_flight", "Requests under way.", lambda r: r.in_flight),
    ("sluice_worker_buffered_bytes", "Bodies held in memory.", lambda r: r.buffered_bytes),
    ("sluice_worker_resident_memory_bytes", "Resident memory.", lambda r: r.rss_bytes),
)


def _workers(snapshot: Snapshot) -> Iterator[Metric]:
    up = GaugeMetricFamily("sluice_worker_up", "1 while the worker is connected.", labels=["worker"])
    starts = CounterMetricFamily("sluice_worker_starts", "Processes this slot has had.", labels=["worker"])
    slots: dict[int, list[WorkerReport]] = {}
    for report in snapshot.live:  # two processes share a slot while one replaces the other
        slots.setdefault(report.worker, []).append(report)
    for slot in range(snapshot.configured_workers):
        up.add_metric([str(slot)], float(slot in slots))
        starts.add_metric([str(slot)], snapshot.incarnations.get(slot, 0))
    yield from (up, starts)
    for name, text, value in _OF_THE_NEWEST:
        family = GaugeMetricFamily(name, text, labels=["worker"])
        for slot, reports in slots.items():
            family.add_metric([str(slot)], value(reports[-1]))
        yield family
    for name, text, value in _ADDED_UP:
        family = GaugeMetricFamily(name, text, labels=["worker"])
        for slot, reports in slots.items():
            family.add_metric([str(slot)], sum(map(value, reports)))
        yield family
    info = GaugeMetricFamily("sluice_build_info", "Always 1.", labels=["version"])
    info.add_metric([snapshot.version], 1)
    yield info


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One running rollout for the metrics; `gates` are (gate, outcome, statistic, bound, size of the effect)."""

    route: str
    candidate: str
    phase: str
    stage: int
    weight: float
    candidate_samples: float
    gates: Sequence[tuple[str, str, float, float, float | None]]


@dataclass(frozen=True, slots=True)
class DeliverySnapshot:
    """What is known of progressive delivery at the moment of a scrape.

    Attributes:
        routes: names of all routes.
        rollouts: running ones.
        finished: (route, final phase) -> how many since the controller started.
        accuracy: (route, variant) -> correct and wrong answers.
        compared: (route, variant of the copy, noise, agreed) -> comparisons.
        samples: taken, dropped, unreadable; joined, early, mismatch.
        missing: (pool, backend, model, version, state) of what the fleet lacks.
        mended: loads that brought a model back.
        events: delivered, failed attempts, given up.
    """

    routes: Sequence[str]
    rollouts: Sequence[RolloutState]
    finished: Mapping[tuple[str, str], int]
    accuracy: Mapping[tuple[str, str], Sequence[float]]
    compared: Mapping[tuple[str, str, bool, bool], int]
    samples: Mapping[str, int]
    missing: Sequence[tuple[str, str, str, str, str]]
    mended: int
    events: Mapping[str, int]


def delivery_families(snapshot: DeliverySnapshot) -> Iterator[Metric]:
    """Rollouts, ground truth, shadow comparisons, and the fleet's drift."""
    labels = ["route", "candidate"]
    info = GaugeMetricFamily("sluice_rollout_info", "Always 1: phase of a running rollout.", labels=[*labels, "phase"])
    stage = GaugeMetricFamily("sluice_rollout_stage", "Index of the present stage.", labels=labels)
    weight = GaugeMetricFamily("sluice_rollout_weight_ratio", "The candidate's share, 0 to 1.", labels=labels)
    seen = GaugeMetricFamily("sluice_rollout_samples", "Candidate observations of this stage.", labels=labels)
    gates = GaugeMetricFamily("sluice_gate_info", "Always 1: a gate's answer.", labels=["route", "gate", "outcome"])
    evidence = GaugeMetricFamily(
        "sluice_gate_evidence", "E-value that the candidate is worse.", labels=["route", "gate"]
    )
    bound = GaugeMetricFamily("sluice_gate_bound", "Evidence at which the gate fails.", labels=["route", "gate"])
    effect = GaugeMetricFamily("sluice_gate_effect", "Size of the difference; drift: PSI.", labels=["route", "gate"])
    for rollout in snapshot.rollouts:
        key = [rollout.route, rollout.candidate]
        info.add_metric([*key, rollout.phase], 1)
        stage.add_metric(key, rollout.stage)
        weight.add_metric(key, rollout.weight / 100)
        seen.add_metric(key, rollout.candidate_samples)
        for gate, outcome, statistic, limit, size in rollout.gates:
            gates.add_metric([rollout.route, gate, outcome], 1)
            evidence.add_metric([rollout.route, gate], statistic)
            bound.add_metric([rollout.route, gate], limit)
            if size is not None:
                effect.add_metric([rollout.route, gate], size)
    yield from (info, stage, weight, seen, gates, evidence, bound, effect)
    ended = CounterMetricFamily("sluice_rollouts_finished", "Rollouts by how they ended.", labels=["route", "phase"])
    # Zeros first: an alert on the first abort of a route needs something that it increased from.
    ends = {(route, phase.value): 0 for route in snapshot.routes for phase in sorted(FINAL)}
    for found, count in {**ends, **snapshot.finished}.items():
        ended.add_metric(found, count)
    truth = CounterMetricFamily(
        "sluice_feedback_answers", "Answers with ground truth.", labels=["route", "variant", "result"]
    )
    for (route, variant), (right, wrong) in snapshot.accuracy.items():
        truth.add_metric([route, variant, "correct"], right)
        truth.add_metric([route, variant, "wrong"], wrong)
    compared = CounterMetricFamily(
        "sluice_shadow_compared", "Copies whose answer was compared.", labels=["route", "variant", "arm", "result"]
    )
    for (route, variant, noise, agreed), count in snapshot.compared.items():
        compared.add_metric([route, variant, "noise" if noise else "shadow", "same" if agreed else "different"], count)
    samples = CounterMetricFamily("sluice_samples", "Sampled answers and ground truths.", labels=["result"])
    for result, count in snapshot.samples.items():
        samples.add_metric([result], count)
    yield from (ended, truth, compared, samples)
    missing = GaugeMetricFamily(
        "sluice_fleet_missing",
        "1: a backend lacks a model.",
        labels=["pool", "backend", "model", "model_version", "state"],
    )
    for row in snapshot.missing:
        missing.add_metric(row, 1)
    yield missing
    yield CounterMetricFamily("sluice_fleet_mended", "Loads that brought a model back.", value=snapshot.mended)
    events = CounterMetricFamily("sluice_events", "Events to webhooks.", labels=["result"])
    for result, count in snapshot.events.items():
        events.add_metric([result], count)
    yield events


def _newest(live: Sequence[WorkerReport]) -> dict[tuple[str, str], dict[int, Exemplar]]:
    """The newest exemplar of each variant and exported bucket."""
    found: dict[tuple[str, str], dict[int, Exemplar]] = {}
    for report in live:
        for exemplar in report.exemplars:
            buckets = found.setdefault((exemplar.route, exemplar.variant), {})
            i = bisect_left(BUCKET_BOUNDS_US, exemplar.latency_us)
            if i not in buckets or buckets[i].at < exemplar.at:
                buckets[i] = exemplar
    return found


_Bucket = tuple[str, float] | tuple[str, float, OpenMetricsExemplar]


def _histogram(
    counts: Sequence[int], sum_us: int | None, exemplars: Mapping[int, Exemplar] | None = None
) -> tuple[list[_Bucket], float]:
    """Cumulative buckets and the sum in seconds; without a recorded sum, each count stands for its bucket's bound."""
    running = list(accumulate(counts))
    ends = [*((repr(us / 1e6), running[index(us)]) for us in BUCKET_BOUNDS_US), ("+Inf", running[-1])]
    buckets: list[_Bucket] = [
        (bound, float(count), _shown(exemplars[i])) if exemplars and i in exemplars else (bound, float(count))
        for i, (bound, count) in enumerate(ends)
    ]
    at_most_us = sum(count * us for count, us in zip(counts, (*BOUNDS_US, BOUNDS_US[-1]), strict=True))
    return buckets, (at_most_us if sum_us is None else sum_us) / 1e6


def _shown(exemplar: Exemplar) -> OpenMetricsExemplar:
    return OpenMetricsExemplar({"trace_id": exemplar.trace_id}, exemplar.latency_us / 1e6, exemplar.at)
