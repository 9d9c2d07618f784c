"""The table itself: every rollout can end, nothing leaves an end, protection works everywhere, the drawing matches."""

from pathlib import Path

import pytest

from gateway.core.rollout_table import FINAL, STAGED, TABLE, Action, Event, Phase, mermaid

DOCS = Path(__file__).parents[2] / "docs" / "delivery.md"
MOVING = tuple(phase for phase in Phase if phase not in FINAL)


def reachable(start: Phase) -> set[Phase]:
    found, todo = {start}, [start]
    while todo:
        phase = todo.pop()
        for (source, _), transition in TABLE.items():
            if source is phase and transition.to not in found:
                found.add(transition.to)
                todo.append(transition.to)
    return found


def test_every_phase_is_reached_from_the_start() -> None:
    """No phase is dead."""
    assert reachable(Phase.PENDING) == set(Phase)


@pytest.mark.parametrize("phase", MOVING)
def test_every_phase_can_end(phase: Phase) -> None:
    """From everywhere an end can be reached."""
    assert reachable(phase) & FINAL


@pytest.mark.parametrize("phase", sorted(FINAL))
def test_an_end_is_an_end(phase: Phase) -> None:
    """Nothing follows a final phase."""
    assert not [event for source, event in TABLE if source is phase]


@pytest.mark.parametrize("phase", [p for p in MOVING if p not in {Phase.ABORTING, Phase.ROLLING_BACK, Phase.CLOSING}])
def test_a_person_can_always_go_back(phase: Phase) -> None:
    """Until the old version is being unloaded, an abort puts all traffic on it first of all."""
    if phase is Phase.RETIRING:
        assert (phase, Event.ABORT) not in TABLE
        return
    transition = TABLE[phase, Event.ABORT]
    assert transition.to in {Phase.ABORTING, Phase.ROLLING_BACK}
    assert transition.actions[0] is Action.STABLE_WEIGHTS


@pytest.mark.parametrize("phase", [*sorted(STAGED - {Phase.FROZEN}), Phase.WINDOW])
def test_a_failure_is_acted_on_wherever_the_candidate_has_traffic(phase: Phase) -> None:
    """Paused, held or awaiting approval, evidence against the candidate still takes its traffic back."""
    transition = TABLE[phase, Event.FAILED]
    assert transition.actions[0] is Action.STABLE_WEIGHTS


def test_only_loaded_and_warm_candidates_get_traffic() -> None:
    """The first stage is entered from warming only, after loading."""
    entering = {source for (source, event), t in TABLE.items() if t.to is Phase.ENTERING and event is Event.DONE}
    assert entering == {Phase.WARMING}
    assert [source for (source, _), t in TABLE.items() if t.to is Phase.WARMING] == [Phase.LOADING]


def test_the_old_version_is_unloaded_only_after_the_window() -> None:
    """No other row unloads it, and only a window that is over leads there."""
    rows = [key for key, t in TABLE.items() if Action.UNLOAD_OLD in t.actions]
    assert rows == [(Phase.WINDOW, Event.WINDOW_OVER)]


def test_the_candidate_is_unloaded_only_after_traffic_has_left() -> None:
    """Where it is unloaded, the weights are set before."""
    for transition in TABLE.values():
        if Action.UNLOAD_CANDIDATE in transition.actions:
            assert transition.actions.index(Action.STABLE_WEIGHTS) < transition.actions.index(Action.UNLOAD_CANDIDATE)


def test_drawing_in_the_docs_is_the_table() -> None:
    """docs/delivery.md carries exactly the diagram that the table draws."""
    assert f"```mermaid\n{mermaid()}```" in DOCS.read_text(encoding="utf-8")


def test_drawing_names_every_row() -> None:
    """Each row's event stands on the arrow between its phases."""
    drawing = mermaid().splitlines()
    for (source, event), transition in TABLE.items():
        (arrow,) = [line for line in drawing if line.strip().startswith(f"{source} --> {transition.to}: ")]
        assert event.value in arrow.split(": ", 1)[1].split(", ")
