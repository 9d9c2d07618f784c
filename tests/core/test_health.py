"""A backend's health as a state that probes and observations move."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.health import NEXT, Breaker, Event, Health, may_eject, panics
from gateway.core.pool import Ejection, Probe

_PROBE = Probe(healthy_after=2, unhealthy_after=3)
_EJECTION = Ejection(consecutive=3, base_s=10.0, max_s=60.0)


def test_probes_need_a_streak() -> None:
    """Three failures in a row take a backend down, two successes in a row bring it back, and anything else resets."""
    health = Health(up=True)
    results = [False, False, True, False, False, False, True, False, True, True]
    changed = [health.probed(result, _PROBE) for result in results]
    assert changed == [False] * 5 + [True] + [False] * 3 + [True]
    assert health.up


def test_ejection_after_failures_in_a_row() -> None:
    """Only an unbroken row of failures ejects, and the backend returns by itself."""
    health = Health(up=True)
    for success in (False, False, True, False, False):
        health.observed(success)
        assert not health.should_eject(_EJECTION)
    health.observed(False)
    assert health.should_eject(_EJECTION)
    until = health.eject(100.0, _EJECTION, 0.5)
    assert until == 110.0
    assert (health.available(109.9), health.available(110.0)) == (False, True)
    assert (health.state(105.0), health.state(111.0)) == ("ejected", "up")


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_ejections_grow_and_are_bounded(chances: list[float]) -> None:
    """Each ejection lasts longer than the one before allowed for, within jitter, and never longer than the bound."""
    health, now = Health(up=True), 0.0
    for i, chance in enumerate(chances):
        until = health.eject(now, _EJECTION, chance)
        mean = min(10.0 * (i + 1), 60.0)
        assert 0.8 * mean - 1e-9 <= until - now <= 1.2 * mean + 1e-9
        now = until


def test_a_long_good_time_forgets_ejections() -> None:
    """After a quiet time longer than the longest ejection the first one is short again."""
    health = Health(up=True)
    for _ in range(5):
        health.eject(health.ejected_until, _EJECTION, 0.5)
    now = health.ejected_until + 61
    assert health.eject(now, _EJECTION, 0.5) - now == 10.0


def test_every_event_has_a_place_in_the_table() -> None:
    """In each state each event leads to one state, and no state is without a way to the others."""
    assert NEXT.keys() == {(state, event) for state in Breaker for event in Event}
    assert {(state, after) for (state, _), after in NEXT.items() if after is not state} == {
        (Breaker.CLOSED, Breaker.OPEN),
        (Breaker.OPEN, Breaker.HALF_OPEN),
        (Breaker.HALF_OPEN, Breaker.OPEN),
        (Breaker.HALF_OPEN, Breaker.CLOSED),
    }


def _ejected() -> Health:
    health = Health(up=True)
    for _ in range(_EJECTION.consecutive):
        health.observed(False)
    health.eject(0.0, _EJECTION, 0.5)
    return health


def test_what_was_under_way_does_not_lengthen_an_ejection() -> None:
    """A hundred requests that hung on a backend are one incident."""
    health = _ejected()
    for _ in range(100):
        assert not health.observed(False)
        assert not health.should_eject(_EJECTION)
    health.observed(True)
    health.elapsed(9.0)
    assert not health.available(9.9)
    assert (health.ejections, health.ejected_until) == (1, 10.0)


def test_after_an_ejection_the_first_request_decides() -> None:
    """One failure ejects again, for longer; one success makes it like any other."""
    health = _ejected()
    health.elapsed(10.0)
    assert health.breaker is Breaker.HALF_OPEN
    assert health.available(10.0)
    assert not health.settled
    health.observed(False)
    assert health.should_eject(_EJECTION)
    assert health.eject(11.0, _EJECTION, 0.5) == 31.0
    health.elapsed(31.0)
    assert health.observed(True)
    assert health.settled
    health.observed(False)
    assert not health.should_eject(_EJECTION)


def test_probes_and_ejections_are_independent() -> None:
    """A backend takes requests only when neither the probes nor an ejection hold it back."""
    health = Health(up=True)
    health.eject(0.0, _EJECTION, 0.5)
    for _ in range(3):
        health.probed(False, _PROBE)
    assert health.state(5.0) == "ejected"
    assert health.state(11.0) == "down"
    assert not health.available(11.0)


@given(st.integers(1, 50), st.floats(0, 100))
def test_at_least_one_may_go_and_never_the_last(size: int, percent: float) -> None:
    """One backend may always be ejected unless it is alone; further ones only within the share."""
    assert may_eject(size, 0, percent) is (size > 1)
    assert not may_eject(size, size, percent)
    out = sum(may_eject(size, already, percent) for already in range(size))
    assert out <= max(1, size * percent / 100)


def test_no_ejections_when_turned_off() -> None:
    """`consecutive: 0` never ejects."""
    health = Health(up=True)
    for _ in range(100):
        health.observed(False)
    assert not health.should_eject(Ejection(consecutive=0))


@given(st.integers(1, 100), st.integers(0, 100))
def test_panic(size: int, available: int) -> None:
    """Below half all are used; with a bound of zero never."""
    assert panics(size, available, 50.0) is (available * 2 < size)
    assert not panics(size, available, 0.0)
