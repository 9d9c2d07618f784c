"""Each strategy end to end in the control plane: a real controller, scripted Tritons, pretended traffic."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.core.route import Route
from gateway.telemetry.records import Outcome, Sample
from tests.delivery.virtual_worker import answer
from tests.delivery.world import World, eventually, quick, route, world

STICKY = {"sticky_header": "x-user"}
NAMES = ("green", "red", "cohorts", "challenger", "silent", "keyed", "keyedbad")
BLUE_GREEN = {"strategy": "blue_green", "shadow_sample": 100, "preview_time_s": 0, "post_time_s": 0}
# Part of the requests that ends in a server error, by route and variant.
BAD = {
    ("red", "new"): 1.0,
    ("cohorts", "old"): 0.1,
    ("challenger", "old"): 0.2,
    ("keyedbad", "new"): 0.5,
}


def _copies(found: Route, variant: str, rng: random.Random) -> Sample | None:
    """A copy that agrees, of every request of a mirrored route."""
    if not found.shadows:
        return None
    return Sample(
        route=found.name, epoch=found.epoch, pinned=False, request_id=str(rng.random()), key=0,
        original=answer(variant, 1), copy=answer("new", 1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One controller for all tests here; each test has a route of its own."""
    sticky = {"cohorts", "keyed", "keyedbad"}
    routes = [route(name, **(STICKY if name in sticky else {})) for name in NAMES]
    with world(tmp_path_factory.mktemp("w"), routes) as found:

        def outcome(name: str, variant: str, rng: random.Random) -> Outcome:
            return Outcome.UPSTREAM_ERROR if rng.random() < BAD.get((name, variant), 0.0) else Outcome.OK

        found.worker.outcome = outcome
        found.worker.sample = _copies
        found.worker.quiet.add("silent")
        yield found


def _shares(w: World, name: str) -> list[float]:
    """The candidate's shares as the worker served them, repetitions left out."""
    seen = [shares[name]["new"] for _, shares in w.worker.history if name in shares]
    return [b for a, b in zip([-1.0, *seen], seen, strict=False) if a != b]


def _by_event(w: World, name: str) -> dict[str, dict[str, Any]]:
    return {decision["event"]: decision for decision in w.decisions(name)}


def test_blue_green_is_analysed_before_and_after_the_switch(w: World) -> None:
    """Copies pass it before it has any traffic, the objectives pass it when it has all, and then it is promoted."""
    assert w.begin("green", {**BLUE_GREEN, "rollback_window_s": 0}).status_code == 201
    found = w.until("green", "completed", "aborted", within_s=60)
    assert found["phase"] == "completed", found["reason"]
    assert _shares(w, "green") == [0.0, 100.0]
    told = _by_event(w, "green")
    before, after = told["passed"]["verdict"], told["passed_last"]["verdict"]
    assert ([g["gate"] for g in before["gates"]], [g["gate"] for g in after["gates"]]) == (["shadow"], ["guardrails"])
    assert before["samples"] >= 100
    assert after["samples"] >= 100


def test_blue_green_that_fails_after_the_switch_goes_back_at_once(w: World) -> None:
    """Its copies were fine, its answers are not: all traffic returns to the old version, which was never unloaded."""
    w.begin("red", {**BLUE_GREEN, "post_time_s": 3600})
    found = w.until("red", "aborted", "completed", within_s=60)
    assert found["phase"] == "aborted"
    eventually(lambda: w.worker.weights("red") == {"old": 100.0, "new": 0.0})
    assert _shares(w, "red") == [0.0, 100.0, 0.0]
    failed = _by_event(w, "red")["failed"]
    assert (failed["stage"], failed["reason"].split(":")[0]) == (1, "guardrails")
    assert not w.triton.posted("/v2/repository/models/red/unload")
    assert ("red", "1") in w.triton.ready
    assert ("red", "2") not in w.triton.ready


def test_cohorts_keep_their_shares_and_end_with_a_report(w: World) -> None:
    """A/B by sticky key: nobody is promoted, and what was found is there to be read when it is over."""
    gates = {"errors": {}, "latency": None, "guardrails": None}
    w.begin("cohorts", {"strategy": "ab", "share": 30, "max_time_s": 4, "gates": gates})
    w.until("cohorts", "judging")
    for full in (False, True):
        refused = w.command("cohorts", "promote", full=full)
        assert (refused.status_code, "ends with a report" in refused.json()["error"]) == (409, True)
    found = w.until("cohorts", "completed", "aborted", within_s=60)
    assert found["phase"] == "completed", found["reason"]
    eventually(lambda: w.worker.weights("cohorts") == {"old": 100.0, "new": 0.0})
    assert _shares(w, "cohorts") == [0.0, 30.0, 0.0]
    report = w.rollout("cohorts")
    assert report["reason"].startswith("4 s are over (")
    (errors,) = report["verdict"]["gates"]
    assert errors["gate"] == "errors"
    assert errors["effect"] < 1, "only the old version fails"
    assert errors["effect_low"] <= errors["effect"] <= errors["effect_high"]
    mine, theirs = report["candidate_counts"], report["reference_counts"]
    assert 0 < mine["assigned"] < theirs["assigned"]
    assert mine["upstream_error"] == 0 < theirs["upstream_error"]
    assert mine["p50_ms"] == theirs["p99_ms"] == pytest.approx(2.0, rel=0.2)


def test_a_challenger_stands_however_good_it_is(w: World) -> None:
    """It is judged without end and moved by a person alone; what the policy wants kept stays loaded."""
    gates = {"errors": {}, "latency": None, "guardrails": {"error_rate": 0.05}}
    policy = {"strategy": "champion_challenger", "share": 20, "gates": gates}
    w.begin("challenger", {**policy, "rollback_window_s": 0, "unload_old": False})
    eventually(lambda: (w.rollout("challenger")["verdict"] or {}).get("outcome") == "pass", 60)
    standing = w.rollout("challenger")
    assert (standing["phase"], standing["weight"], standing["next_decision_at"]) == ("judging", 20.0, None)
    refused = w.command("challenger", "promote")
    assert (refused.status_code, "promote in full" in refused.json()["error"]) == (409, True)
    assert w.command("challenger", "promote", full=True).status_code == 200
    w.until("challenger", "completed")
    assert _shares(w, "challenger") == [0.0, 20.0, 100.0]
    assert {("challenger", "1"), ("challenger", "2")} <= w.triton.ready


def test_no_data_holds_and_is_never_promoted(w: World) -> None:
    """Nobody asks: the rollout says that it has no data, holds its share, and is taken back when it held too long."""
    w.begin("silent", quick(max_hold_s=1))
    found = w.until("silent", "aborted", "completed", within_s=60)
    assert found["phase"] == "aborted"
    told = _by_event(w, "silent")
    assert told["stalled"]["reason"].startswith("no_data: ")
    assert told["stalled"]["verdict"]["outcome"] == "no_data"
    assert told["hold_expired"]["reason"].startswith("held for 1 s (no_data: ")
    assert _shares(w, "silent") == [0.0, 20.0, 0.0]


def test_an_equal_baseline_works_by_keys_too(w: World) -> None:
    """Only the two equal arms' keys are compared: a good version passes both steps, a bad one is found."""
    w.begin("keyed", quick(baseline="equal"))
    w.begin("keyedbad", quick(baseline="equal", steps=[{"weight": 20, "min_time_s": 3600}]))
    good = w.until("keyed", "completed", "aborted", within_s=60)
    assert good["phase"] == "completed", good["reason"]
    assert not [d for d in w.decisions("keyed") if "no comparison is valid" in d["reason"]]
    bad = w.until("keyedbad", "completed", "aborted", within_s=60)
    assert (bad["phase"], "server errors" in bad["reason"]) == ("aborted", True)
