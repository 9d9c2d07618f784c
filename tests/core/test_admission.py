"""The line of those who wait, and the limit that follows latency."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.adaptive import AdaptiveLimit
from gateway.core.admission import Line


def test_first_come_first_served_within_a_priority() -> None:
    """1 goes before 2, 2 before none, and within each the one that came first."""
    line: Line[str] = Line(10)
    for arrival, (name, priority) in enumerate([("a", 0), ("b", 2), ("c", 1), ("d", 2), ("e", 1), ("f", 0)]):
        assert line.join(name, priority, arrival) == (True, None)
    order = []
    while line:
        order.append(line.first())
        line.leave(order[-1])
    assert order == ["c", "e", "b", "d", "a", "f"]


def test_a_full_line_makes_room_for_a_higher_priority_only() -> None:
    """The youngest of the lowest priority leaves; an equal or lower newcomer is turned away."""
    line: Line[str] = Line(2)
    line.join("old", 0, 1)
    line.join("young", 0, 2)
    assert line.join("late", 0, 3) == (False, None)
    assert line.join("vip", 1, 4) == (True, "young")
    assert line.join("vip2", 1, 5) == (True, "old")
    assert line.join("vip3", 1, 6) == (False, None)
    assert line.join("normal", 0, 7) == (False, None)
    assert len(line) == 2


def test_a_line_without_room_turns_all_away() -> None:
    """A bound of zero means no waiting at all."""
    assert Line[str](0).join("a", 1, 1) == (False, None)


def test_those_who_wait_stay_when_the_line_gets_shorter() -> None:
    """A smaller bound turns newcomers away until the line has shrunk below it."""
    line: Line[str] = Line(2)
    line.join("a", 0, 1)
    line.join("b", 0, 2)
    line.resize(1)
    assert line.full
    assert line.join("c", 0, 3) == (False, None)
    line.leave("a")
    assert line.full
    line.leave("b")
    assert not line.full
    line.resize(0)
    assert line.full


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60), st.integers(0, 8))
def test_the_line_agrees_with_a_sorted_list(events: list[tuple[int, bool]], bound: int) -> None:
    """Any sequence of arrivals and departures leaves the same line as sorting would."""
    line: Line[int] = Line(bound)
    model: list[tuple[int, int]] = []
    for arrival, (priority, leaves) in enumerate(events):
        if leaves and model:
            first = min(model)
            assert line.first() == first[1]
            assert line.leave(first[1])
            model.remove(first)
            assert (len(line), line.full) == (len(model), len(model) >= bound)
            continue
        key = (priority or 99, arrival)
        waits, left = line.join(arrival, priority, arrival)
        if len(model) < bound:
            assert (waits, left) == (True, None)
            model.append(key)
        elif model and max(model)[0] > key[0]:
            assert (waits, left) == (True, max(model)[1])
            model.remove(max(model))
            model.append(key)
        else:
            assert (waits, left) == (False, None)
        assert (len(line), line.full) == (len(model), len(model) >= bound)
    assert not line.leave(-1)


def run(limit: AdaptiveLimit, base_s: float, windows: int, start: float = 0.0, capacity: int = 10) -> None:
    """Feeds a limit from a server that takes `capacity` at once: more than that queue up and take longer."""
    now = start
    for _ in range(windows):
        in_flight = limit.limit
        latency = base_s * max(1.0, in_flight / capacity)
        for _ in range(20):
            limit.observe(latency, in_flight, now)
            now += 0.01


def test_the_limit_settles_near_the_capacity() -> None:
    """Started far too high, it falls until the queue is a buffer's worth, and stays there."""
    limit = AdaptiveLimit(2, 1000, 0.1)
    run(limit, 0.01, 200)
    assert 8 <= limit.limit <= 40


def test_the_limit_follows_a_model_that_became_slower() -> None:
    """After the next measurement without a queue, a latency ten times as long is normal and not a queue."""
    limit = AdaptiveLimit(2, 1000, 0.1)
    run(limit, 0.01, 200)
    run(limit, 0.1, 400, start=1000.0)
    assert 8 <= limit.limit <= 40


def test_an_unused_limit_does_not_grow() -> None:
    """With far fewer requests than it allows, a limit that once fell stays where it is."""
    limit = AdaptiveLimit(2, 1000, 0.1)
    run(limit, 0.01, 200)
    before = limit.limit
    for step in range(200):
        limit.observe(0.01, 1, 41 + step * 0.02)
    assert limit.limit <= before


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 2000)), min_size=1, max_size=200))
def test_the_limit_keeps_its_bounds(answers: list[tuple[float, int]]) -> None:
    """Whatever the latencies, the limit stays between lowest and highest."""
    limit = AdaptiveLimit(3, 50, 0.1)
    for step, (latency, in_flight) in enumerate(answers):
        limit.observe(latency, in_flight, step * 0.05)
        assert 3 <= limit.limit <= 50
