"""Sums over workers never go backwards, whatever workers do."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.histogram import BOUNDS_US, index
from gateway.core.route import Route, Variant
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import BUCKET_BOUNDS_US, Snapshot, render
from gateway.telemetry.records import BackendStatus, Outcome, ShadowCounts, VariantCounts, WorkerReport


def report(worker: int, incarnation: str, ok: dict[tuple[str, int], int], accepted: int = 0) -> WorkerReport:
    """A report with `ok` answers by (variant, epoch)."""
    variants = []
    for (variant, epoch), count in ok.items():
        row = VariantCounts(route="r", variant=variant, epoch=epoch, latency_us=count * 1000, statuses={200: count})
        row.outcomes[Outcome.OK] = count
        row.latency[index(1000)] = count
        variants.append(row)
    return WorkerReport(
        worker=worker,
        incarnation=incarnation,
        pid=1,
        generation=1,
        uptime_s=1.0,
        draining=False,
        variants=variants,
        new_keys=[],
        shadows=[ShadowCounts(route="r", variant="s", epoch=0, ok=accepted, dropped={"body": accepted})],
        backends=[
            BackendStatus(
                pool="p",
                url="http://b",
                state="ready",
                in_flight=2,
                idle=1,
                connects=accepted,
                connect_failures=0,
                ejections=0,
                failures=0,
                requests=accepted,
            )
        ],
        faults=[("r", "deadline", accepted)],
        connections=3,
        accepted=accepted,
        in_flight=1,
        buffered_bytes=0,
        retries=0,
        rss_bytes=1 << 20,
    )


def ok(ledger: Ledger, variant: str) -> int:
    row = ledger.totals().variants.get(("r", variant))
    return row.outcomes[Outcome.OK] if row else 0


def test_reports_replace_each_other_and_workers_add_up() -> None:
    """A repeated report changes nothing; two workers are summed."""
    ledger = Ledger()
    for _ in range(3):
        ledger.record(report(0, "x", {("a", 0): 5}, accepted=2))
    ledger.record(report(1, "y", {("a", 0): 7}, accepted=1))
    assert ok(ledger, "a") == 12
    totals = ledger.totals()
    assert (totals.accepted, totals.faults["r", "deadline"]) == (3, 3)
    assert totals.backends["p", "http://b"]["requests"] == 3
    assert totals.shadows["r", "s"].dropped == {"body": 3}


def test_a_dead_workers_counts_stay() -> None:
    """A new process in the slot starts at zero; the sum goes on."""
    ledger = Ledger()
    ledger.record(report(0, "first", {("a", 0): 5}))
    ledger.record(report(0, "second", {("a", 0): 1}))
    ledger.record(report(0, "third", {}))
    assert ok(ledger, "a") == 6
    assert ledger.incarnations() == {0: 3}


def test_a_forgotten_epoch_stays_counted() -> None:
    """A worker may drop the rows of old epochs."""
    ledger = Ledger()
    ledger.record(report(0, "x", {("a", 0): 5, ("a", 1): 2}))
    ledger.record(report(0, "x", {("a", 1): 3}))
    assert ok(ledger, "a") == 8


def test_sums_of_routes_that_are_gone_are_dropped() -> None:
    """Only what is kept of dead workers: living ones decide for themselves."""
    ledger = Ledger()
    ledger.record(report(0, "x", {("a", 0): 5}))
    ledger.record(report(0, "y", {}))
    ledger.forget_routes(frozenset())
    assert ledger.totals().variants == {}


_events = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 9), st.booleans()),
    max_size=40,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_events)
def test_no_sum_ever_shrinks(events: list[tuple[int, str, int, int, bool]]) -> None:
    """Against a model: after any mix of counting, dying and forgetting, the sum is all that was ever reported."""
    ledger = Ledger()
    counts: list[dict[tuple[str, int], int]] = [{}, {}, {}]
    lives = [0, 0, 0]
    sums = {"a": 0, "b": 0}
    for worker, variant, epoch, more, dies in events:
        if dies:
            lives[worker] += 1
            counts[worker] = {}
        current = counts[worker]
        for old in [key for key in current if key[1] < epoch]:
            del current[old]
        current[variant, epoch] = current.get((variant, epoch), 0) + more
        sums[variant] += more
        ledger.record(report(worker, str(lives[worker]), dict(current)))
        assert {name: ok(ledger, name) for name in sums} == sums


def _scrape(ledger: Ledger) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    route = Route(name="r", variants=(Variant(name="a", model="m", version="1", weight=100.0),))
    snapshot = Snapshot(4, (route,), ledger.totals(), ledger.reports(), 2, dict(ledger.incarnations()), "0")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(render(snapshot)[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_metrics_follow_the_conventions() -> None:
    """The exposition parses; counters end in _total; a histogram's buckets and sum are exact."""
    ledger = Ledger()
    ledger.record(report(0, "x", {("a", 0): 5}, accepted=2))
    found = _scrape(ledger)
    key = (("route", "r"), ("variant", "a"))
    assert found["sluice_requests_total"][("outcome", "ok"), *key] == 5
    assert found["sluice_request_duration_seconds_count"][key] == 5
    assert found["sluice_request_duration_seconds_sum"][key] == 0.005
    buckets = found["sluice_request_duration_seconds_bucket"]
    assert buckets[("le", "0.00071"), *key] == 0
    assert buckets[("le", "0.001"), *key] == 5
    assert found["sluice_worker_up"] == {(("worker", "0"),): 1.0, (("worker", "1"),): 0.0}
    assert (
        found["sluice_route_weight_ratio"][("model", "m"), ("model_version", "1"), ("route", "r"), ("variant", "a")]
        == 1.0
    )
    assert found["sluice_backend_workers"][("backend", "http://b"), ("pool", "p"), ("state", "ready")] == 1
    assert found["sluice_generation"][()] == 4


def test_histogram_bounds_are_recorded_bounds() -> None:
    """No count has to be split between two exposed buckets, and the usual objectives can be read off."""
    assert set(BUCKET_BOUNDS_US) <= set(BOUNDS_US)
    assert {20_000, 50_000, 100_000, 1_000_000} <= set(BUCKET_BOUNDS_US)
    assert len(BUCKET_BOUNDS_US) <= 40
