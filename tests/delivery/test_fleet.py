"""The fleet: models seen, loaded and unloaded by hand, and what is missing brought back."""

from collections.abc import Iterator

import pytest

from tests.delivery.world import World, eventually, quick, route, world


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two backends that are compared with the table five times a second."""
    delivery = {"delivery": {"mend_interval_s": 0.2}}
    with world(tmp_path_factory.mktemp("w"), [route("a")], backends=2, **delivery) as found:
        yield found


def _versions(w: World, model: str) -> list[set[str]]:
    return [{v for m, v in double.ready if m == model} for double in w.tritons]


def test_a_backend_that_lost_a_model_gets_it_back(w: World) -> None:
    """A Triton that restarted empty is served with what the table wants of it; unweighted variants are not loaded."""
    w.tritons[1].ready.clear()
    eventually(lambda: _versions(w, "a") == [{"1"}, {"1"}])
    eventually(lambda: w.admin.get("/drift").json() == [])


def test_what_cannot_be_mended_is_reported(w: World) -> None:
    """With backend, model, state and reason, in the API and in the metrics, until it is there again."""
    w.tritons[1].broken.add(("a", "1"))
    w.tritons[1].ready.clear()
    # A load that was under way when the model was taken away is refused for another reason, once.
    rows = eventually(lambda: [row for row in w.admin.get("/drift").json() if "failed to load" in row["detail"]])
    assert (rows[0]["url"], rows[0]["model"], rows[0]["version"]) == (w.tritons[1].url, "a", "1")
    assert rows[0]["state"] == "refused"
    text = w.admin.get(str(w.admin.base_url).replace("/api/v1/", "/metrics")).text
    assert "sluice_fleet_missing{" in text
    w.tritons[1].broken.clear()
    eventually(lambda: w.admin.get("/drift").json() == [])


def test_models_by_hand(w: World) -> None:
    """One version is loaded beside another and taken away alone; what a route needs stays."""
    dry = w.admin.post("/models/a/load", params={"version": "2", "dry_run": True}).json()
    assert all(double.url in dry["detail"] for double in w.tritons)
    assert w.admin.post("/models/a/load", params={"version": "2"}).status_code == 200
    assert _versions(w, "a") == [{"1", "2"}, {"1", "2"}]
    listed = {(row["backend"], row["version"]) for row in w.admin.get("/models").json() if row["state"] == "READY"}
    assert len(listed) == 4
    needed = w.admin.post("/models/a/unload", params={"version": "1"})
    assert (needed.status_code, "is needed by: a" in needed.json()["error"]) == (409, True)
    assert w.admin.post("/models/a/unload", params={"version": "2", "force": True}).status_code == 200
    assert _versions(w, "a") == [{"1"}, {"1"}]
    for double in w.tritons:
        double.broken.add(("a", "9"))
    refused = w.admin.post("/models/a/load", params={"version": "9"})
    assert (refused.status_code, "failed to load 'a', version 9" in refused.json()["error"]) == (409, True)
    assert w.admin.post("/models/a/load", params={"pool": "none"}).status_code == 409
    assert w.admin.get("/audit", params={"limit": 1}).json()[0]["action"] == "unload"


def test_a_rollback_loads_what_was_unloaded_since(w: World) -> None:
    """The earlier generation is served by models that are there, before its first request."""
    served = w.admin.get("/routes").json()["routes"]
    served[0].pop("epoch")
    served[0]["variants"][0]["weight"], served[0]["variants"][1]["weight"] = 0, 100
    assert w.admin.post("/models/a/load", params={"version": "2"}).status_code == 200
    assert w.admin.put("/routes", json={"routes": served}).status_code == 200
    assert w.admin.post("/models/a/unload", params={"version": "1", "force": True}).status_code == 200
    assert _versions(w, "a") == [{"2"}, {"2"}]
    assert w.admin.post("/rollback").status_code == 200
    assert _versions(w, "a") == [{"1", "2"}, {"1", "2"}]
    eventually(lambda: w.worker.weights("a") == {"old": 100.0, "new": 0.0})


def test_a_candidate_is_loaded_by_its_rollout_not_before(w: World) -> None:
    """A route with a policy is taken while its candidate is not loaded, before and after; others are refused."""
    assert w.admin.post("/models/a/load", params={"version": "2"}).status_code == 200
    served = w.admin.get("/routes").json()["routes"]
    served[0].pop("epoch")
    late = route("late", model="a", rollout=quick())
    late["variants"][1]["version"] = "3"
    plain = {name: value for name, value in late.items() if name != "rollout"}
    copied = {**late, "shadows": [{"variant": "new"}]}
    for refused in (plain, copied):
        answer = w.admin.put("/routes", json={"routes": [*served, refused]})
        assert answer.status_code == 422
        assert "model 'a' version 3 is ready on no backend" in answer.text
    assert w.admin.put("/routes", json={"routes": [*served, late]}).status_code == 200
    assert not any("3" in versions for versions in _versions(w, "a"))
    assert w.begin("late").status_code == 201
    eventually(lambda: w.rollout("late")["phase"] == "judging")
    assert all("3" in versions for versions in _versions(w, "a"))
    assert w.admin.post("/routes/late/rollout/abort").status_code == 200
    eventually(lambda: w.rollout("late")["final"])
    assert not any("3" in versions for versions in _versions(w, "a"))
    assert w.admin.put("/routes", json={"routes": [*served, late]}).status_code == 200
