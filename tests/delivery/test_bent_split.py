"""A split that is not the one that was set: no comparison of the arms is valid, so nothing is decided by one."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.telemetry.records import Outcome
from tests.delivery.world import World, eventually, quick, route, world

BENT = {"few": 0.25, "many": 3.0, "expiring": 0.25, "failing": 0.25}
# A straight split passes at the end of the minimum time; a bent one is known by then.
PATIENT = quick(steps=[{"weight": 20, "min_time_s": 2, "min_samples": 20, "slack": 20}])
SENTENCE = r"no comparison is valid: the candidate got (\d+) of (\d+) requests or keys where its share is 0\.2"


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Workers report a split that is bent on all routes but one; no request fails."""
    with world(tmp_path_factory.mktemp("w"), [route(name) for name in ("straight", *BENT)]) as found:
        found.worker.per_tick = 50
        found.worker.bent = BENT
        yield found


def sluice(w: World, *arguments: str) -> str:
    """What a command prints for people."""
    url = str(w.admin.base_url).removesuffix("/api/v1/")
    environment = {**os.environ, "SLUICE_ADMIN_URL": url, "COLUMNS": "1000"}
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def weights(w: World, name: str) -> list[float]:
    """The candidate's weights as the worker served them, repetitions left out."""
    seen = [shares[name]["new"] for _, shares in w.worker.history if name in shares]
    return [b for a, b in zip([-1.0, *seen], seen, strict=False) if a != b]


def observed(sentence: str) -> float:
    """The candidate's share that a reason names."""
    found = re.search(SENTENCE, sentence)
    assert found, sentence
    return int(found[1]) / int(found[2])


def event(w: World, name: str, kind: str) -> dict[str, Any]:
    """The one decision of that kind."""
    (found,) = [decision for decision in w.decisions(name) if decision["event"] == kind]
    return found


def test_a_straight_split_passes(w: World) -> None:
    """The same policy and the same traffic, assigned as the weights say, are no reason to wait."""
    w.begin("straight", PATIENT)
    assert w.until("straight", "completed", "held", "aborted")["phase"] == "completed"


@pytest.mark.parametrize(("name", "share"), [("few", 5 / 85), ("many", 60 / 140)])
def test_a_bent_split_holds_and_says_why(w: World, name: str, share: float) -> None:
    """A candidate without a fault is not handed more traffic, nor taken back, on a comparison of arms nobody drew."""
    w.begin(name, PATIENT)
    found = w.until(name, "held", "completed", "aborted")
    assert found["phase"] == "held"
    assert found["reason"].startswith("error: errors: ")
    assert observed(found["reason"]) == pytest.approx(share, abs=0.05)
    (gate,) = found["verdict"]["gates"]
    assert (found["verdict"]["outcome"], gate["gate"], gate["outcome"], gate["counts"]) == (
        "error", "errors", "error", True,
    )  # fmt: skip
    assert observed(gate["reason"]) == pytest.approx(share, abs=0.05)
    assert "find what bends the split" in gate["would_change"]
    assert found["candidate_counts"]["upstream_error"] == 0

    decided = event(w, name, "stalled")
    assert decided["reason"] == found["reason"]
    assert decided["verdict"]["outcome"] == "error"
    shown = sluice(w, "rollout", "status", name)
    assert observed(shown) == pytest.approx(share, abs=0.05)
    assert "held" in shown
    assert "find what bends the split" in shown
    (line,) = [line for line in sluice(w, "rollout", "history", name).splitlines() if "stalled" in line]
    assert found["reason"] in line

    assert weights(w, name) == [0.0, 20.0]
    w.command(name, "abort")
    w.until(name, "aborted")


def test_a_split_that_stays_bent_is_taken_back_in_the_end(w: World) -> None:
    """Nobody looks after it: once it was held for too long the old version has all traffic, and the reason is kept."""
    w.begin("expiring", {**PATIENT, "max_hold_s": 1})
    found = w.until("expiring", "aborted", "completed")
    assert found["phase"] == "aborted"
    assert found["reason"].startswith("held for 1 s (error: errors: ")
    assert observed(found["reason"]) == pytest.approx(5 / 85, abs=0.05)
    assert event(w, "expiring", "hold_expired")["reason"] == found["reason"]
    assert observed(sluice(w, "rollout", "status", "expiring")) == pytest.approx(5 / 85, abs=0.05)
    eventually(lambda: weights(w, "expiring") == [0.0, 20.0, 0.0])


def test_a_guardrail_needs_no_split(w: World) -> None:
    """A version that begins to fail while the split is bent is taken back for that: a bound compares nothing."""
    w.begin("failing", {**PATIENT, "gates": {**PATIENT["gates"], "guardrails": {"error_rate": 0.1}}})
    found = w.until("failing", "held", "completed", "aborted")
    assert found["phase"] == "held"
    assert observed(found["reason"]) == pytest.approx(5 / 85, abs=0.05)
    w.worker.outcome = lambda name, variant, _: (
        Outcome.UPSTREAM_ERROR if (name, variant) == ("failing", "new") else Outcome.OK
    )
    found = w.until("failing", "aborted", "completed")
    assert found["phase"] == "aborted"
    assert found["reason"].startswith("guardrails")
    gates = {gate["gate"].split(":")[0]: gate["outcome"] for gate in found["verdict"]["gates"]}
    assert gates == {"errors": "error", "guardrails": "fail"}
