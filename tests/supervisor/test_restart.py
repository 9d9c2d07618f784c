"""When a dead process starts again."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.supervisor.restart import Restart, after_exit


def test_the_first_death_is_mended_at_once() -> None:
    """One crash costs no pause."""
    assert after_exit(Restart(), 5.0, 0.9) == Restart(1, 0.0)


def test_pauses_grow_and_end_at_fifteen_seconds() -> None:
    """A process that keeps dying is started ever more rarely."""
    state, pauses = Restart(), []
    for _ in range(12):
        state = after_exit(state, 0.1, 0.5)
        pauses.append(state.delay_s)
    assert pauses[:4] == [0.0, 0.1, 0.2, 0.4]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10.0


@given(st.integers(0, 1000), st.floats(0, 29), st.floats(0, 0.999))
def test_pauses_are_bounded_and_jittered(failures: int, lived_s: float, chance: float) -> None:
    """However many deaths, the pause is between half and one and a half of its plan."""
    pause = after_exit(Restart(failures), lived_s, chance).delay_s
    plan = after_exit(Restart(failures), lived_s, 0.5).delay_s
    assert 0.5 * plan <= pause <= 1.5 * plan <= 15.0


def test_a_steady_process_is_forgiven() -> None:
    """After half a minute of life the next death counts as the first."""
    assert after_exit(Restart(9, 10.0), 31.0, 0.5) == Restart(1, 0.0)
