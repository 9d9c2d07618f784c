"""What generators count, added up in any order, is what one generator would have counted."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import merge
from loadtest.ledger import MAX_VARIANTS, OTHER, Ledger, Total

EVENTS = st.lists(
    st.tuples(
        st.floats(0, 5), st.sampled_from("ab"), st.sampled_from(["", "v1", "v2"]), st.floats(0, 2), st.booleans()
    ),
    max_size=60,
)


def record(ledger: Ledger, events: list[tuple[float, str, str, float, bool]]) -> None:
    """Count events of (time, request, variant, latency, success)."""
    for at, request, variant, latency, ok in events:
        if ok:
            ledger.success(at, "arm", request, variant, latency_s=latency, service_s=latency / 2, items=3)
        else:
            ledger.failure(at, "arm", request, variant, kind="timeout")


@given(events=EVENTS, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_parts_add_up_to_the_whole(events: list[tuple[float, str, str, float, bool]], cuts: list[int]) -> None:
    """Reports cut anywhere and sent by several workers give the same cells as one report."""
    whole = Ledger(1.0)
    record(whole, events)
    expected = Total()
    expected.add(whole.take())
    parts = Total()
    edges = [0, *sorted(cuts), len(events)]
    for low, high in pairwise(edges):
        worker = Ledger(1.0)
        record(worker, events[low:high])
        parts.add(worker.take())
    assert parts.cells() == expected.cells()
    assert sum(sum(c.latency.values()) + sum(c.errors.values()) for c in parts.cells()) == len(events)


def test_take_empties_the_ledger() -> None:
    """Nothing is reported twice."""
    ledger = Ledger(1.0)
    ledger.late(0.5, "arm", "r", 0.001)
    assert len(ledger.take()) == 1
    assert ledger.take() == []


def test_labels_from_the_server_are_bounded() -> None:
    """A server that invents a variant per request cannot make the ledger grow: the surplus is counted as other."""
    ledger = Ledger(1.0)
    for i in range(1000):
        ledger.success(0.1, "arm", "r", f"v{i}", latency_s=0.001, service_s=0.001, items=1)
    cells = ledger.take()
    assert len(cells) == MAX_VARIANTS + 1
    counted = merge(c.latency for c in cells if c.variant == OTHER)
    assert sum(counted.values()) == 1000 - MAX_VARIANTS
