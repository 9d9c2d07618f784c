"""Rollouts end to end in the control plane: a real controller, scripted Tritons, pretended traffic."""

import hashlib
import hmac
import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.core.route import Route
from gateway.telemetry.records import Outcome, Sample
from tests.delivery.triton_double import Call
from tests.delivery.virtual_worker import answer
from tests.delivery.world import World, eventually, quick, route, world

NAMES = (
    "promoted", "failing", "pausing", "approving", "guarded", "neighbour", "hooked", "vetoed", "silent", "windowed",
    "dry", "fulled", "equal", "truth", "mirrored", "broken", "greenblue", "shared", "sticky", "stickybad",
)  # fmt: skip
PREDICTIONS = {"predictions": {"output": "label", "kind": "label"}}

STICKY = {"sticky_header": "x-user"}


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One controller for all tests here; each test has a route of its own."""
    special = {"truth": PREDICTIONS, "mirrored": PREDICTIONS, "sticky": STICKY, "stickybad": STICKY}
    routes = [route(name, **special.get(name, {})) for name in NAMES]
    with world(
        tmp_path_factory.mktemp("w"),
        routes,
        backends=2,
        delivery=lambda doubles: {"webhooks": [{"url": f"{doubles[0].url}/events", "secret_env": "HOOK_KEY"}]},
    ) as found:

        def outcome(name: str, variant: str, _: random.Random) -> Outcome:
            return Outcome.UPSTREAM_ERROR if variant == "new" and name in {"failing", "stickybad"} else Outcome.OK

        found.worker.outcome = outcome
        for double in found.tritons:
            double.answers["/events"] = lambda _: (200, {})
        yield found


def _loaded(w: World, model: str) -> list[set[str]]:
    return [{v for m, v in double.ready if m == model} for double in w.tritons]


def test_a_good_version_takes_all_traffic_step_by_step(w: World) -> None:
    """Loaded and warm everywhere before its first request; each share in order; the old version unloaded at the end."""
    assert w.begin("promoted", why="better").status_code == 201
    assert w.until("promoted", "completed", "aborted")["phase"] == "completed"
    decisions = w.decisions("promoted")
    assert [d["seq"] for d in decisions] == list(range(1, len(decisions) + 1))
    assert [d["event"] for d in decisions if d["event"].startswith("passed")] == ["passed", "passed_last"]
    assert next(d for d in decisions if d["event"] == "passed")["verdict"]["outcome"] == "pass"
    eventually(lambda: w.worker.weights("promoted") == {"old": 0.0, "new": 100.0})
    shares = [seen["promoted"]["new"] for _, seen in w.worker.history if "promoted" in seen]
    assert [b for a, b in zip([-1.0, *shares], shares, strict=False) if a != b] == [0.0, 20.0, 50.0, 100.0]
    assert _loaded(w, "promoted") == [{"2"}, {"2"}]
    first = w.triton.posted("/v2/models/promoted/versions/2/infer")
    assert len(first) >= 3, "warm-up came before traffic"
    kinds = [row["kind"] for row in w.admin.get("/generations", params={"limit": 1000}).json()]
    assert "rollout" in kinds


def test_a_bad_version_is_taken_back(w: World) -> None:
    """Its errors abort within a few dozen requests, whatever the minimum time; nothing of it stays loaded."""
    policy = quick(steps=[{"weight": 20, "min_time_s": 3600}, {"weight": 50}])
    w.begin("failing", policy)
    found = w.until("failing", "aborted", "completed")
    assert found["phase"] == "aborted"
    failed = next(d for d in w.decisions("failing") if d["event"] == "failed")
    gate = next(g for g in failed["verdict"]["gates"] if g["outcome"] == "fail")
    assert gate["statistic"] >= gate["bound"]
    assert gate["samples"] < 100
    assert "server errors" in failed["reason"]
    eventually(lambda: w.worker.weights("failing") == {"old": 100.0, "new": 0.0})
    assert _loaded(w, "failing") == [{"1"}, {"1"}]


def test_pause_resume_and_what_does_not_fit(w: World) -> None:
    """A paused rollout decides nothing; commands that do not fit are refused with the phase."""
    policy = quick(steps=[{"weight": 20, "min_time_s": 3600}, {"weight": 50}])
    w.begin("pausing", policy)
    w.until("pausing", "judging", "held")
    assert w.command("pausing", "pause", why="lunch").json()["phase"] == "paused"
    refused = w.command("pausing", "promote")
    assert refused.status_code == 409
    assert "does not fit phase paused" in refused.json()["error"]
    assert w.command("pausing", "pause", dry_run=True).status_code == 409, "what would be refused is refused"
    assert w.command("pausing", "resume", dry_run=True).json()["phase"] == "judging"
    assert w.rollout("pausing")["phase"] == "paused", "and what would be obeyed is not done"
    assert w.command("pausing", "resume").json()["phase"] == "judging"
    assert w.command("pausing", "abort", why="enough").status_code == 200
    found = w.until("pausing", "aborted")
    assert "abort by api: enough" in found["reason"]
    gone = w.command("pausing", "abort")
    assert (gone.status_code, "no rollout is running" in gone.json()["error"]) == (409, True)


def test_a_step_waits_for_approval(w: World) -> None:
    """`pause: true` holds the share after the gates have passed, until somebody says so."""
    policy = quick(steps=[{"weight": 20, "min_time_s": 0, "min_samples": 20, "slack": 20, "pause": True}])
    w.begin("approving", policy)
    found = w.until("approving", "awaiting")
    assert found["weight"] == 20.0
    assert w.command("approving", "promote").status_code == 200
    w.until("approving", "completed")


def test_promote_in_full_goes_ahead_of_the_evidence(w: World) -> None:
    """A person may have the last word; it is written down as such."""
    w.begin("fulled", quick(steps=[{"weight": 1, "min_time_s": 3600}]))
    w.until("fulled", "judging", "held")
    assert w.command("fulled", "promote", full=True, why="known good").status_code == 200
    w.until("fulled", "completed")
    assert any("promote in full by api: known good" in d["reason"] for d in w.decisions("fulled"))


def test_the_old_version_returns_at_once_within_the_window(w: World) -> None:
    """After promotion it stays loaded; a rollback needs no load."""
    w.begin("windowed", quick(rollback_window_s=3600))
    w.until("windowed", "window")
    assert _loaded(w, "windowed") == [{"1", "2"}, {"1", "2"}]
    before = len(w.triton.posted("/v2/repository/models/windowed/load"))
    assert w.command("windowed", "rollback", why="complaints").status_code == 200
    eventually(lambda: w.worker.weights("windowed") == {"old": 100.0, "new": 0.0})
    w.until("windowed", "rolled_back")
    loads = w.triton.posted("/v2/repository/models/windowed/load")[before:]
    policies = [json.loads(load.json["parameters"]["config"])["version_policy"] for load in loads]
    assert policies == [{"specific": {"versions": [1]}}], "only the candidate's unload touched the repository"


def test_a_route_under_rollout_is_its_own(w: World) -> None:
    """One rollout per route; a file may repeat the route as it was; other changes wait; other routes do not."""
    w.begin("guarded", quick(steps=[{"weight": 20, "min_time_s": 3600}]))
    w.until("guarded", "judging", "held")
    second = w.begin("guarded")
    assert (second.status_code, "is on route 'guarded' already" in second.json()["error"]) == (409, True)
    served = w.admin.get("/routes").json()["routes"]
    as_file = [{k: v for k, v in found.items() if k != "epoch"} for found in served]
    mine = next(i for i, found in enumerate(as_file) if found["name"] == "guarded")
    neighbour = next(found for found in as_file if found["name"] == "neighbour")
    neighbour["timeout_s"] = 7.0
    original = {**route("guarded"), "timeout_s": 60.0}
    put = {"verify": False}
    kept = w.admin.put("/routes", params=put, json={"routes": [*as_file[:mine], original, *as_file[mine + 1 :]]})
    assert kept.status_code == 200, kept.text
    now = {found["name"]: found for found in w.admin.get("/routes").json()["routes"]}
    assert now["neighbour"]["timeout_s"] == 7.0
    assert [v["weight"] for v in now["guarded"]["variants"]] == [80.0, 20.0]
    changed = {**original, "timeout_s": 9.0}
    for others in ([*as_file[:mine], changed, *as_file[mine + 1 :]], [*as_file[:mine], *as_file[mine + 1 :]]):
        refused = w.admin.put("/routes", params=put, json={"routes": others})
        assert refused.status_code == 409
        assert "sluice rollout abort guarded" in refused.json()["error"]
    w.command("guarded", "abort")
    w.until("guarded", "aborted")


def test_hooks_are_signed_and_may_stop_a_rollout(w: World) -> None:
    """Each is called once per phase with an idempotency key; a refusal before a step takes everything back."""
    keys: set[str] = set()

    def gate(call: Call) -> tuple[int, Any]:
        stamp = call.headers["x-sluice-timestamp"]
        wanted = hmac.new(b"hush", stamp.encode() + b"." + call.body, hashlib.sha256).hexdigest()
        assert call.headers["x-sluice-signature"] == f"sha256={wanted}"
        keys.add(call.headers["idempotency-key"])
        refuse = [call.json[key][:8] for key in ("route", "hook", "stage")] == ["vetoed", "pre_step", "step 2 ("]
        return (403, {"why": "not on a Friday"}) if refuse else (200, {})

    w.triton.answers["/hook"] = gate
    url = f"{w.triton.url}/hook"
    hooks = [
        {"phase": phase, "url": url, "secret_env": "HOOK_KEY"}
        for phase in ("pre_rollout", "pre_step", "post_step", "confirm_promotion", "post_promotion", "on_abort")
    ]
    w.begin("hooked", quick(hooks=hooks))
    w.begin("vetoed", quick(hooks=hooks))
    w.until("hooked", "completed")
    w.until("vetoed", "aborted")
    calls = [call.json for call in w.triton.posted("/hook")]
    told = {name: [call["hook"] for call in calls if call["route"] == name] for name in ("hooked", "vetoed")}
    assert told["hooked"] == [
        "pre_rollout", "pre_step", "post_step", "pre_step", "post_step", "confirm_promotion", "post_promotion",
    ]  # fmt: skip
    assert told["vetoed"] == ["pre_rollout", "pre_step", "post_step", "pre_step", "on_abort"]
    assert len(keys) == len(calls)
    assert any("answered 403" in d["reason"] and "Friday" in d["reason"] for d in w.decisions("vetoed"))


def test_a_silent_hook_is_a_refusal(w: World) -> None:
    """Its own time-out decides."""
    release = threading.Event()

    def hang(_: Call) -> tuple[int, Any]:
        release.wait(20)
        return 200, {}

    w.triton.answers["/hang"] = hang
    w.begin("silent", quick(hooks=[{"phase": "pre_rollout", "url": f"{w.triton.url}/hang", "timeout_s": 0.2}]))
    try:
        found = w.until("silent", "aborted")
    finally:
        release.set()
    assert any("did not answer within 0.2 s" in d["reason"] for d in w.decisions("silent"))
    assert found["final"]


def test_events_are_cloudevents(w: World) -> None:
    """Every turn of the first rollout was told, signed and in order, each with an id of its own."""
    w.begin("neighbour")
    w.until("neighbour", "completed")

    def told() -> list[dict[str, Any]]:
        calls = [call for call in w.triton.posted("/events") if call.json["source"] == "/sluice/routes/neighbour"]
        assert all(call.headers["content-type"] == "application/cloudevents+json" for call in calls)
        assert all("x-sluice-signature" in call.headers for call in calls)
        return [call.json for call in calls]

    wanted = {f"io.sluice.rollout.{name}" for name in ("start", "step", "promote", "complete")}
    eventually(lambda: wanted <= {event["type"] for event in told()})
    events = told()
    assert len({event["id"] for event in events}) == len(events)
    assert all(event["specversion"] == "1.0" and event["data"]["candidate"] == "new" for event in events)
    assert events[0]["type"].endswith("start")


def test_a_partial_load_is_undone(w: World) -> None:
    """One of two backends cannot load it: no traffic is sent, and the other one loses it again."""
    w.tritons[1].broken.add(("broken", "2"))
    w.begin("broken")
    w.until("broken", "aborted")
    assert any("failed to load 'broken', version 2" in d["reason"] for d in w.decisions("broken"))
    assert _loaded(w, "broken") == [{"1"}, {"1"}]
    assert all(seen.get("broken", {}).get("new", 0.0) == 0.0 for _, seen in w.worker.history)


def test_a_quorum_is_enough(w: World) -> None:
    """With `warm_quorum: 0.5` one of two backends carries the rollout."""
    w.tritons[1].broken.add(("shared", "2"))
    w.begin("shared", quick(warm_quorum=0.5))
    assert w.until("shared", "completed", "aborted")["phase"] == "completed"


def test_an_equal_baseline_stands_beside_the_candidate(w: World) -> None:
    """The old version as a second arm of the same size, and gone again afterwards."""
    w.begin("equal", quick(baseline="equal"))
    w.until("equal", "completed")
    seen = [shares["equal"] for _, shares in w.worker.history if "equal" in shares]
    assert {"old": 60.0, "old.baseline": 20.0, "new": 20.0} in seen
    assert seen[-1] == {"old": 0.0, "new": 100.0}


def test_sticky_routes_are_judged_by_keys(w: World) -> None:
    """What was drawn is the key: keys are asked for while it runs, judged, and no more asked for afterwards."""
    w.begin("sticky")
    w.begin("stickybad", quick(steps=[{"weight": 20, "min_time_s": 3600}]))
    assert w.until("sticky", "completed", "aborted")["phase"] == "completed"
    bad = w.until("stickybad", "aborted", "completed")
    assert bad["phase"] == "aborted"
    assert "server errors" in bad["reason"]
    served = {found["name"]: found for found in w.admin.get("/table").json()["routes"]}
    assert not any((served[name]["evidence"] or {}).get("keys") for name in ("sticky", "stickybad"))


def test_a_dry_run_says_what_would_happen(w: World) -> None:
    """Stages and variants, and nothing is stored."""
    shown = w.begin("dry", {"strategy": "blue_green", "shadow_sample": 10}, dry_run=True).json()
    assert (shown["stages"], shown["stable"], shown["candidate"]) == (["preview", "post-switch"], "old", "new")
    assert w.admin.get("/rollouts/dry").status_code == 404


@pytest.mark.parametrize(
    ("name", "policy", "params", "status", "says"),
    [
        ("nowhere", None, {}, 409, "route 'nowhere' does not exist"),
        ("dry", None, {"candidate": "old"}, 409, "variant 'old' has all traffic already"),
        ("dry", None, {"candidate": "newest"}, 409, "has no variant 'newest'"),
        ("dry", {"stepz": []}, {}, 422, "unknown key 'stepz'; did you mean 'steps'?"),
        ("dry", {"steps": [{"weight": 50}, {"weight": 5}]}, {}, 422, "weights must ascend"),
        ("dry", {"gates": {"accuracy": {}}}, {}, 422, "set `predictions` on the route"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(
    w: World, name: str, policy: dict[str, Any] | None, params: dict[str, Any], status: int, says: str
) -> None:
    """One message, nothing stored."""
    refused = w.begin(name, policy, **params)
    assert refused.status_code == status
    assert says in refused.json()["error"]


def test_ground_truth_aborts_a_version_that_returns_no_error(w: World) -> None:
    """Feedback is joined by request id, whichever comes first, and judged; accuracy per variant is shown."""
    pending: list[tuple[str, int]] = []
    count = iter(range(1_000_000))

    def sample(found: Route, variant: str, rng: random.Random) -> Sample | None:
        if found.name != "truth":
            return None
        truth = rng.randrange(10)
        right = rng.random() < (0.95 if variant == "old" else 0.6)
        request_id = f"r{next(count)}"
        pending.append((request_id, truth))
        label = truth if right else (truth + 1) % 10
        return Sample(
            route="truth", epoch=found.epoch, pinned=False, request_id=request_id, key=0,
            original=answer(variant, label),
        )  # fmt: skip

    gates = {"errors": None, "latency": None, "guardrails": None, "accuracy": {"min_samples": 20}}
    w.worker.sample = sample
    try:
        w.begin("truth", quick(gates=gates, steps=[{"weight": 50, "min_time_s": 3600}]))

        def over() -> bool:
            batch = [pending.pop() for _ in range(len(pending))]
            truths = [{"request_id": request_id, "label": label} for request_id, label in batch]
            assert w.admin.post("/feedback", json={"route": "truth", "truths": truths}).status_code == 200
            return bool(w.rollout("truth")["final"])

        eventually(over, 30)
    finally:
        w.worker.sample = lambda *_: None
    found = w.rollout("truth")
    assert found["phase"] == "aborted"
    assert "accuracy" in found["reason"]
    rows = {row["variant"]: row["accuracy"] for row in w.admin.get("/accuracy").json()}
    assert rows["new"] < 0.8 < rows["old"]
    nobody = {"route": "truth", "truths": [{"request_id": "never"}]}
    assert w.admin.post("/feedback", json=nobody).status_code == 422


def test_a_shadow_that_differs_is_found_and_shown(w: World) -> None:
    """Blue-green with copies: a seeded fault in a tensor aborts before any traffic; samples say what and where."""

    def sample(found: Route, variant: str, rng: random.Random) -> Sample | None:
        if found.name != "mirrored" or not found.shadows:
            return None
        noise = rng.random() < found.shadows[0].noise / 100
        label = rng.randrange(10)
        copied = answer(variant, label) if noise else answer("new", (label + 1) % 10)
        return Sample(
            route="mirrored", epoch=found.epoch, pinned=False, request_id=f"m{rng.random()}", key=0,
            original=answer(variant, label), copy=copied, noise=noise,
        )  # fmt: skip

    gates = {"errors": None, "latency": None, "shadow": {"min_samples": 20}}
    w.worker.sample = sample
    try:
        w.begin("mirrored", {"strategy": "blue_green", "gates": gates, "preview_time_s": 3600})
        found = w.until("mirrored", "aborted", "completed")
    finally:
        w.worker.sample = lambda *_: None
    assert found["phase"] == "aborted"
    assert "shadow" in found["reason"]
    assert all(seen.get("mirrored", {}).get("new", 0.0) == 0.0 for _, seen in w.worker.history)
    diffs = eventually(lambda: w.admin.get("/routes/mirrored/diffs").json())
    assert diffs[0]["copy"] == "new"
    assert diffs[0]["output"] == "label"
    assert diffs[0]["original_value"] != diffs[0]["copy_value"]
    assert not any(diff["noise"] for diff in diffs)


def test_metrics_tell_of_rollouts(w: World) -> None:
    """Counters of ends, and gauges of a running rollout and its gates."""
    w.begin("greenblue", quick(steps=[{"weight": 20, "min_time_s": 3600}]))
    w.until("greenblue", "judging", "held")
    page = str(w.admin.base_url).replace("/api/v1/", "/metrics")
    # The gates speak at the first look after the stage began.
    eventually(lambda: 'sluice_gate_info{gate="errors"' in w.admin.get(page).text)
    text = w.admin.get(page).text
    assert 'sluice_rollouts_finished_total{phase="aborted",route="failing"} 1.0' in text
    assert 'sluice_rollout_weight_ratio{candidate="new",route="greenblue"} 0.2' in text
    w.command("greenblue", "abort")
    w.until("greenblue", "aborted")
