"""The exposition: Prometheus's conventions, bounded labels, one sample for each series, and what alerts count on."""

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.route import Route, Variant
from gateway.telemetry.catalogue import LABELS, Family, catalogue
from gateway.telemetry.ledger import Totals
from gateway.telemetry.metrics import BUCKET_BOUNDS_US, DeliverySnapshot, Snapshot, delivery_families, render
from gateway.telemetry.records import Exemplar, VariantCounts, WorkerReport

_OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def report(worker: int, incarnation: str, **more: object) -> WorkerReport:
    """A worker's report with nothing counted."""
    zero = dict.fromkeys(("connections", "accepted", "in_flight", "buffered_bytes", "retries", "rss_bytes"), 0)
    empty = {name: [] for name in ("variants", "new_keys", "shadows", "backends", "faults")}
    fixed = {"pid": 1, "generation": 1, "uptime_s": 1.0, "draining": False}
    return WorkerReport(worker=worker, incarnation=incarnation, **(fixed | zero | empty | more))  # type: ignore[arg-type]


def snapshot(totals: Totals | None = None, *live: WorkerReport) -> Snapshot:
    """What a scrape sees."""
    route = Route(name="a", variants=(Variant(name="v1", model="m", weight=100),))
    return Snapshot(
        generation=1,
        routes=(route,),
        totals=totals or Totals(),
        live=live,
        configured_workers=1,
        incarnations={0: 1},
        version="0",
    )


def quiet(**more: object) -> DeliverySnapshot:
    """Nothing is rolled out."""
    empty = {"rollouts": (), "finished": {}, "accuracy": {}, "compared": {}, "samples": {}, "missing": (), "mended": 0}
    return DeliverySnapshot(**({"routes": ["a"], "events": {}} | empty | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", catalogue(), ids=lambda family: family.name)
def test_a_family_follows_the_conventions(family: Family) -> None:
    """Prefix, snake case, `_total` on counters and only there, base units, a help text, labels that are explained."""
    assert re.fullmatch(r"sluice(_[a-z]+)+", family.name)
    assert (family.kind == "counter") == family.name.endswith("_total")
    assert not re.search(r"_(ms|millis|milliseconds|us|kb|mb|percent|pct)(_|$)", family.name)
    assert family.kind != "histogram" or family.name.endswith("_seconds")
    assert family.text.endswith(".")
    assert set(family.labels) <= set(LABELS)


def test_names_and_labels_are_all_used() -> None:
    """No name twice, and no explanation of a label that nothing has."""
    names = [family.name for family in catalogue()]
    assert len(names) == len(set(names)) > 40
    assert set(LABELS) == {label for family in catalogue() for label in family.labels}


def test_buckets_hold_the_objectives_exactly() -> None:
    """20 ms and 100 ms are bounds, so that no objective is interpolated."""
    assert {20_000, 50_000, 100_000} <= set(BUCKET_BOUNDS_US)


def test_two_processes_in_one_slot_give_one_sample() -> None:
    """While a worker is replaced its connections are added up, and its generation is the successor's."""
    old, new = report(0, "old", connections=5, generation=1), report(0, "new", connections=2, generation=2)
    text, _ = render(snapshot(None, old, new))
    series = [line.rsplit(" ", 1)[0] for line in text.decode().splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))
    values = {s.name: s.value for f in text_string_to_metric_families(text.decode()) for s in f.samples}
    assert values["sluice_worker_connections"] == 7
    assert values["sluice_worker_generation"] == 2
    assert values["sluice_worker_up"] == 1


def test_the_first_abort_of_a_route_can_be_seen_as_an_increase() -> None:
    """Every route has its ends from the start, at zero."""
    text, _ = render(snapshot(), delivery_families(quiet(finished={("a", "aborted"): 2})))
    (family,) = (f for f in text_string_to_metric_families(text.decode()) if f.name == "sluice_rollouts_finished")
    ends = {sample.labels["phase"]: sample.value for sample in family.samples}
    assert ends == {"aborted": 2, "completed": 0, "rolled_back": 0}


def test_an_exemplar_stands_in_the_bucket_of_its_latency() -> None:
    """The newest of a bucket is shown, in OpenMetrics only."""
    totals = Totals()
    totals.add_variants([VariantCounts(route="a", variant="v1", epoch=0)])
    found = [
        Exemplar(route="a", variant="v1", trace_id=trace_id, latency_us=us, at=at)
        for trace_id, us, at in (("old", 15_000, 1.0), ("new", 16_000, 2.0), ("slow", 99_000_000_000, 3.0))
    ]
    scraped = snapshot(totals, report(0, "x", exemplars=found))
    text, kind = render(scraped, accept=_OPEN_METRICS)
    assert kind.startswith("application/openmetrics-text")
    samples = [s for f in open_metrics(text.decode()) for s in f.samples if s.exemplar]
    assert {s.labels["le"]: s.exemplar.labels["trace_id"] for s in samples} == {"0.02": "new", "+Inf": "slow"}
    plain, kind = render(scraped)
    assert kind.startswith("text/plain")
    assert b"trace_id" not in plain


def test_series_do_not_grow_with_what_clients_send() -> None:
    """A route that no table has is no label: faults on unknown names are counted without one."""
    totals = Totals()
    totals.add_faults([("", "unknown_route", 3)])
    text, _ = render(snapshot(totals))
    assert 'sluice_faults_total{code="unknown_route",route=""} 3.0' in text.decode()
