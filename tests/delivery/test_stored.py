"""What is stored, and when: before anything is published, and never more than its bounds."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.controlplane.delivery.record import Record
from gateway.controlplane.delivery.rollout_store import KEEP_DIFFS, KEEP_ROLLOUTS, Diff, RolloutStore
from gateway.controlplane.store import Store
from gateway.core.evidence_state import begin
from gateway.core.rollout import Decision, RolloutState
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.rollout_table import Phase
from gateway.core.route import Route, Variant
from gateway.telemetry.records import Outcome
from tests.delivery.world import World, eventually, quick, route, world


@pytest.fixture
def w(tmp_path: Path) -> Iterator[World]:
    """One route."""
    with world(tmp_path, [route("a")]) as found:
        yield found


@pytest.mark.timeout(120)
def test_nothing_is_published_that_cannot_be_stored(w: World) -> None:
    """While another program holds the store, a failing version is not taken back; afterwards it is, with its reason."""
    w.begin("a", quick(steps=[{"weight": 20, "min_time_s": 3600}]))
    w.until("a", "judging")
    eventually(lambda: w.worker.weights("a") == {"old": 80.0, "new": 20.0})
    other = sqlite3.connect(w.log.parent / "state.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        generation = w.worker.table.generation
        w.worker.outcome = lambda name, variant, _: Outcome.UPSTREAM_ERROR if variant == "new" else Outcome.OK
        eventually(lambda: "a rollout waits for the store" in w.log.read_text(), 60)
        assert w.worker.table.generation == generation
        assert w.worker.weights("a") == {"old": 80.0, "new": 20.0}
        stored = other.execute("SELECT event FROM decisions WHERE rollout = 'a.1'").fetchall()
        assert ("failed",) not in stored
        other.execute("ROLLBACK")
    finally:
        other.close()
    found = w.until("a", "aborted", within_s=60)
    assert "server errors" in found["reason"]
    assert [d["event"] for d in w.decisions("a")].count("failed") == 1
    eventually(lambda: w.worker.weights("a") == {"old": 100.0, "new": 0.0})


def test_a_bad_end_is_explained_after_a_restart_too(w: World) -> None:
    """Why it was taken back - gate, evidence, bound, samples, interval - can be read as long as it is kept."""
    w.worker.outcome = lambda name, variant, _: Outcome.UPSTREAM_ERROR if variant == "new" else Outcome.OK
    w.begin("a", quick(steps=[{"weight": 20, "min_time_s": 3600}]))
    before = w.until("a", "aborted", within_s=60)
    w.order("kill")
    w.start()
    after = w.rollout("a")
    assert after == before
    (gate,) = after["verdict"]["gates"]
    assert (gate["gate"], gate["outcome"]) == ("errors", "fail")
    assert gate["statistic"] >= gate["bound"] > 0
    assert 1 < gate["effect_low"] <= gate["effect"]
    assert after["candidate_counts"]["upstream_error"] == gate["samples"] > 0


def _diff(name: str, at: float) -> Diff:
    return Diff(route=name, at=at, request_id="x", original="old", copy="new", noise=False, reason="other")


def test_differences_are_kept_up_to_a_bound_per_route(tmp_path: Path) -> None:
    """The newest of each route; one that differs all the time does not push out another's."""
    store = Store("", tmp_path)
    kept = RolloutStore(store)
    kept.add_diffs([_diff("rare", 1.0)])
    for batch in range(5):
        kept.add_diffs([_diff("often", float(at)) for at in range(batch * 100, batch * 100 + 100)])
    assert [diff.at for diff in kept.diffs("often", 1000)] == [float(at) for at in range(499, 499 - KEEP_DIFFS, -1)]
    assert len(kept.diffs("rare", 1000)) == 1
    store.close()


def _stored(kept: RolloutStore, name: str, number: int, phase: Phase) -> Record:
    """A rollout of a route of that name, brought into a phase by one decision that rests on one key."""
    variants = (Variant(name="old", model="m", version="1", weight=100.0), Variant(name="new", model="m", version="2"))
    begun = RolloutState(id=f"{name}.{number}", route=name, stable="old", candidate="new")
    record = Record(
        id=begun.id, created=float(number), who="", why="", policy=RolloutPolicy(),
        original=Route(name=name, variants=variants), state=begun, evidence=begin(RolloutPolicy()),
    )  # fmt: skip
    kept.create(record, number)
    state = replace(begun, phase=phase, seq=1)
    why = f"{record.id} is {phase}"
    decision = Decision(seq=1, at=float(number), event="done", before=begun.phase, state=state, reason=why)
    kept.save(replace(record, state=state), float(number), decision, [("server", (number,))])
    return replace(record, state=state)


def test_the_rollouts_that_ended_last_are_kept_and_none_that_runs_is_dropped(tmp_path: Path) -> None:
    """Up to a bound, each with its whole story; what runs or may still roll back does not count, however old it is."""
    store = Store("", tmp_path)
    kept = RolloutStore(store)
    phases = [phase for phase in Phase if phase not in {Phase.COMPLETED, Phase.ABORTED, Phase.ROLLED_BACK}]
    running = [_stored(kept, f"r{number}", number, phase) for number, phase in enumerate(phases, start=1)]
    assert Phase.WINDOW in phases
    first, last = len(running) + 1, len(running) + KEEP_ROLLOUTS + 3
    for number in range(first, last + 1):
        _stored(kept, "often", number, Phase.COMPLETED)
    assert kept.next_number() == last + 1
    newest = _stored(kept, "newest", last + 1, Phase.PENDING)
    store.close()

    store = Store("", tmp_path)
    kept = RolloutStore(store)
    assert kept.active() == [*running, newest]
    ended = [record.id for record in kept.latest("often", 2 * KEEP_ROLLOUTS)]
    assert ended == [f"often.{number}" for number in range(last, last - KEEP_ROLLOUTS, -1)]
    shown = [record.id for record in kept.latest(None, 2)]
    assert shown == [newest.id, *(record.id for record in reversed(running)), *ended[:2]]
    for record in (*running, newest):
        assert [decision.reason for decision in kept.decisions(record.id)] == [f"{record.id} is {record.state.phase}"]
        assert len(kept.keys(record.id)) == 1
    for name in ended:
        assert [decision.reason for decision in kept.decisions(name)] == [f"{name} is completed"]
    for number in range(first, last - KEEP_ROLLOUTS + 1):
        assert kept.get(f"often.{number}") is None
        assert kept.decisions(f"often.{number}") == []
    store.close()


@pytest.mark.timeout(120)
def test_a_rollout_that_outlived_a_thousand_others_can_be_read_after_its_end(tmp_path: Path) -> None:
    """It goes on while they are dropped, and what became of it is not forgotten at the next start of another."""
    with world(tmp_path, [route("a"), route("b")]) as w:
        w.begin("a", quick(steps=[{"weight": 20, "min_time_s": 3600}]))
        w.until("a", "judging")
        w.order("kill")
        store = Store("", tmp_path)
        for number in range(2, KEEP_ROLLOUTS + 3):
            _stored(RolloutStore(store), "b", number, Phase.COMPLETED)
        store.close()
        w.start()
        assert w.begin("b").json()["id"] == f"b.{KEEP_ROLLOUTS + 3}"
        w.until("b", "completed")
        assert w.admin.get("/rollouts/b.2").status_code == 404
        assert w.rollout("a")["phase"] == "judging"
        assert w.command("a", "abort", why="enough").status_code == 200
        before = w.until("a", "aborted")
        story = w.decisions("a")
        assert w.begin("b").json()["id"] == f"b.{KEEP_ROLLOUTS + 4}"
        w.until("b", "completed")
        assert w.rollout("a") == before
        assert (before["id"], before["reason"]) == ("a.1", "abort by api: enough")
        assert w.decisions("a") == story
        assert [decision["seq"] for decision in story] == list(range(1, len(story) + 1))
