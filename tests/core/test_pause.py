"""Leaving somebody alone who does harm."""

from gateway.core.pause import Pause


def test_a_few_strikes_in_a_row_begin_a_pause() -> None:
    """Two strikes are forgiven, the third one holds everything back for a second."""
    pause = Pause()
    for at in (10.0, 10.1):
        pause.strike(at)
        assert not pause.holds(at, 5)
    pause.strike(10.2)
    assert pause.holds(11.1, 0)
    assert not pause.holds(11.3, 0)


def test_after_a_pause_one_at_a_time_and_a_strike_doubles_it() -> None:
    """What was begun before a pause does not lengthen it; the try after it does, up to a minute."""
    pause = Pause()
    for _ in range(50):
        pause.strike(0.0)
    assert not pause.holds(1.0, 0)
    assert pause.holds(1.0, 1)
    now, lengths = 1.0, []
    for _ in range(12):
        pause.strike(now)
        end = now
        while pause.holds(end, 0):
            end += 0.5
        lengths.append(end - now)
        now = end
    assert lengths[:3] == [2.0, 4.0, 8.0]
    assert max(lengths) == lengths[-1] == 60.0


def test_doing_well_clears_it() -> None:
    """After one good answer nothing is held back, and the next pause needs three strikes again."""
    pause = Pause()
    for at in range(5):
        pause.strike(float(at))
    pause.clear()
    pause.strike(100.0)
    assert not pause.holds(100.0, 9)
