"""A rollout whose controller is killed again and again ends as if nothing had happened."""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.triton_double import Call
from tests.delivery.world import World, eventually, quick, route, world

# The suite keeps it short; SLUICE_KILLS=100 is the full measure.
KILLS = int(os.environ.get("SLUICE_KILLS", "20"))
_PHASES = ("pre_rollout", "pre_step", "post_step", "confirm_promotion", "post_promotion")


def _policy(w: World, step_s: float) -> dict[str, Any]:
    hooks = [{"phase": phase, "url": f"{w.triton.url}/hook"} for phase in _PHASES]
    steps = [{"weight": weight, "min_time_s": step_s, "min_samples": 20, "slack": 20} for weight in (5, 10, 20, 35, 50)]
    return quick(steps=steps, hooks=hooks, rollback_window_s=step_s)


def _story(w: World, name: str) -> dict[str, Any]:
    """What must be the same however often the controller died."""
    decisions = w.decisions(name)
    assert [d["seq"] for d in decisions] == list(range(1, len(decisions) + 1)), "each decision once, none missing"
    entered = [d["stage"] for d in decisions if d["event"] == "done" and d["after"] == "judging"]
    called = [call for call in w.triton.posted("/hook") if call.json["route"] == name]
    once: dict[str, str] = {call.headers["idempotency-key"]: call.json["hook"] for call in called}
    source = f"/sluice/routes/{name}"
    told = {call.json["id"]: call.json["type"] for call in w.triton.posted("/events") if call.json["source"] == source}
    final = next(found for found in w.admin.get("/routes").json()["routes"] if found["name"] == name)
    return {
        "phase": w.rollout(name)["phase"],
        "stages": entered,
        "weights": {variant["name"]: variant["weight"] for variant in final["variants"]},
        "stable": final["stable"],
        "evidence": final["evidence"],
        "loaded": {version for model, version in w.triton.ready if model == name},
        "hooks": list(once.values()),
        "events": [kind for kind in told.values() if not kind.endswith("hold")],
    }


@pytest.mark.timeout(600)
def test_kills_change_nothing(tmp_path: Path) -> None:
    """SIGKILL at random moments, from loading to the end of the window: same steps, same hooks, same end state."""
    rng = random.Random(20)
    routes = [route("calm"), route("stormy")]
    webhooks = {"delivery": lambda doubles: {"webhooks": [{"url": f"{doubles[0].url}/events"}]}}

    def taken(_: Call) -> tuple[int, Any]:
        return 200, {}

    with world(tmp_path, routes, **webhooks) as w:
        w.triton.answers |= {"/events": taken, "/hook": taken}
        w.begin("calm", _policy(w, 0.2))
        w.until("calm", "completed", "aborted")
        w.begin("stormy", _policy(w, 2.0))
        for kill in range(KILLS):
            # A random moment is the point of the test: after it serves, or while it is still starting.
            time.sleep(rng.uniform(0.0, 0.4))
            w.order("kill")
            w.order("start")
            if kill % 3:
                os.read(w.ready_fd, 1)
        w.until("stormy", "completed", "aborted", within_s=60)
        wanted = {"start", "step", "promote", "complete"}
        eventually(lambda: wanted <= {kind.rsplit(".", 1)[1] for kind in _story(w, "stormy")["events"]})
        calm, stormy = _story(w, "calm"), _story(w, "stormy")
        assert calm["phase"] == "completed"
        assert stormy == calm
        shares = [seen["stormy"]["new"] for _, seen in w.worker.history]
        steps = [b for a, b in zip([-1.0, *shares], shares, strict=False) if a != b]
        assert steps == [0.0, 5.0, 10.0, 20.0, 35.0, 50.0, 100.0]


def test_counts_are_taken_once_over_a_crash(tmp_path: Path) -> None:
    """What a worker had reported before the crash and reports again after it is evidence once."""
    with world(tmp_path, [route("a")]) as w:
        w.begin("a", quick(steps=[{"weight": 50, "min_time_s": 3600}]))
        w.until("a", "judging", "held")
        for _ in range(5):
            before = w.rollout("a")["candidate_counts"]["assigned"]
            eventually(lambda seen=before: w.rollout("a")["candidate_counts"]["assigned"] > seen + 20)
            w.order("kill")
            w.start()
        found = w.rollout("a")
        epoch = found["weight"] == 50.0 and w.worker.table.routes[0].epoch
        pretended = {key[1]: row.assigned for key, row in w.worker.counts.items() if key[2] == epoch}
        counted = found["candidate_counts"]["assigned"] + found["reference_counts"]["assigned"]
        assert 100 < counted <= sum(pretended.values())
        eventually(lambda: _counted(w) >= sum(pretended.values()))


def _counted(w: World) -> int:
    found = w.rollout("a")
    return int(found["candidate_counts"]["assigned"] + found["reference_counts"]["assigned"])
