"""A whole group of processes: supervisor and controller are real, workers are stand-ins (tests/supervisor/standin)."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from gateway.errors import ExitCode
from tests.supervisor.group import Group, config, routes, running, start, until


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Three workers with routes given at start."""
    place = tmp_path_factory.mktemp("group")
    settings = {"config": config(place / "state", workers=3), "routes": routes()}
    with running(settings, place / "log") as found:
        yield found


def _counted(group: Group) -> float:
    text = group.http.get(f"{group.admin_url}/metrics").text
    rows = [line for line in text.splitlines() if line.startswith('sluice_requests_total{outcome="ok"')]
    return sum(float(line.rpartition(" ")[2]) for line in rows)


def test_a_hundred_generations_reach_all_workers(group: Group) -> None:
    """In far less than 20 s, while requests flow, none fails; each answer is from a generation that was published."""
    first = group.get("/routes")["generation"]
    stop = False

    def drive() -> list[int]:
        seen = []
        while not stop:
            seen.append(group.served()[2])
        return seen

    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        driver = pool.submit(drive)
        for i in range(100):
            answer = group.put(routes(weight=float(i % 100)))
            assert answer.status_code == 200, answer.text
            assert answer.json()["late"] == []
            assert answer.json()["generation"] == first + i + 1
        took = time.monotonic() - began
        stop = True
        seen = driver.result(30)
    assert took < 20
    assert {worker["generation"] for worker in group.get("/workers")} == {first + 100}
    assert set(seen) <= set(range(first, first + 101))
    assert len(seen) > 50


def test_a_killed_worker_is_replaced_and_its_counts_stay(group: Group) -> None:
    """Listening never stops: a request sent at any moment is answered, and no counter goes backwards."""
    for _ in range(20):
        group.served()
    before = until(lambda: _counted(group) if _counted(group) >= 20 else 0)
    pid = group.served()[1]
    os.kill(pid, signal.SIGKILL)
    for _ in range(20):
        assert group.served()[1] != pid
    until(lambda: all(w["connected"] and w["pid"] != pid for w in group.get("/workers")))
    assert until(lambda: _counted(group) >= before + 20)
    assert sorted(worker["starts"] for worker in group.get("/workers")) == [1, 1, 2]


def test_a_killed_controller_costs_no_request_and_no_state(group: Group) -> None:
    """Requests flow without it; its successor knows the same generation, and workers come back to it."""
    generation = group.get("/routes")["generation"]
    os.kill(group.children()["controller"], signal.SIGKILL)
    for _ in range(20):
        assert group.served()[2] == generation
    assert until(lambda: group.get("/routes")["generation"]) == generation
    until(lambda: sum(worker["connected"] for worker in group.get("/workers")) == 3)
    done = group.put(routes(weight=33.0)).json()
    assert (done["generation"], done["late"]) == (generation + 1, [])


def test_optimistic_concurrency(group: Group) -> None:
    """A change made for another generation than the current one is refused and changes nothing."""
    current = group.get("/routes")["generation"]
    refused = group.put(routes(weight=1.0), if_generation=current - 1)
    assert refused.status_code == 409
    assert f"generation {current - 1} is no longer current; {current} is" in refused.json()["error"]
    assert group.get("/routes")["generation"] == current


def test_rollback_and_history(group: Group) -> None:
    """The last different generation comes back as a new one; a named one, too; an unknown one is refused."""
    group.put(routes(weight=11.0))
    group.put(routes(weight=22.0), why="more")
    post = f"{group.admin_url}/api/v1/rollback"
    dry = group.http.post(post, params={"dry_run": True}).json()
    assert "weight: 11.0" in dry["diff"]
    back = group.http.post(post, params={"why": "worse"}).json()
    assert group.get("/routes")["routes"][0]["variants"][0]["weight"] == 11.0
    last, before = group.get("/generations?limit=2")
    assert (last["number"], last["kind"], last["why"], last["current"]) == (
        back["generation"],
        "rollback",
        "worse",
        True,
    )
    assert (before["why"], before["current"]) == ("more", False)
    assert group.http.post(post, params={"to": before["number"]}).json()["changed"]
    assert group.http.post(post, params={"to": 10**9}).status_code == 409
    assert group.get("/audit?limit=1")[0]["action"] == "rollback"


def test_applying_what_is_served_changes_nothing(group: Group) -> None:
    """An unchanged file makes no generation."""
    one = group.put(routes(weight=44.0)).json()
    two = group.put(routes(weight=44.0)).json()
    assert (two["generation"], two["changed"], two["diff"]) == (one["generation"], False, "")


def test_errors_of_the_api_have_one_shape(group: Group) -> None:
    """Every refusal is `{"error": ...}` with a fitting status."""
    base = f"{group.admin_url}/api/v1"
    with httpx.Client(trust_env=False) as client:
        cases = [
            (client.put(f"{base}/routes", content=b"{"), 422, "not valid JSON"),
            (client.put(f"{base}/routes", content=b"x" * (9 << 20)), 413, "larger than 8 MiB"),
            (client.put(f"{base}/routes?dry_run=perhaps", json=routes()), 422, "dry_run"),
            (client.put(f"{base}/routes", content="a: [", headers={"content-type": "application/yaml"}), 422, "body:1"),
            (client.get(f"{base}/generations/999999"), 404, "generation 999999 does not exist"),
            (client.get(f"{base}/nothing"), 404, "Not Found"),
            (client.delete(f"{base}/routes"), 405, "Method Not Allowed"),
            (client.get(f"{base}/routes", headers={"host": "evil.example"}), 403, "is not this machine"),
        ]
    for answer, status, what in cases:
        assert answer.status_code == status
        assert what in answer.json()["error"]


def test_openapi_describes_the_orders(group: Group) -> None:
    """The description has an example that is itself valid, and no dangling reference."""
    document = group.http.get(f"{group.admin_url}/openapi.json").json()
    body = document["paths"]["/api/v1/routes"]["put"]["requestBody"]["content"]["application/json"]
    assert "Route" in document["components"]["schemas"]
    assert body["schema"]["properties"]["routes"]["items"]["$ref"] == "#/components/schemas/Route"
    assert group.put(body["example"], dry_run=True).status_code == 200


def test_routes_given_at_start_are_not_applied_again_by_a_new_controller(tmp_path: Path) -> None:
    """A controller that crashed must not undo what was applied since; a restart of all applies the file again."""
    settings = {"config": config(tmp_path / "state"), "routes": routes(weight=90.0)}
    with running(settings, tmp_path / "log") as group:
        assert group.put(routes(weight=10.0)).json()["generation"] == 2
        os.kill(group.children()["controller"], signal.SIGKILL)
        assert until(lambda: group.get("/routes"))["generation"] == 2
        assert group.stop() == 0
    with running({"config": settings["config"]}, tmp_path / "log") as group:
        assert group.get("/routes")["generation"] == 2
    with running(settings, tmp_path / "log") as group:
        assert group.get("/routes")["generation"] == 3
        assert group.get("/routes")["routes"][0]["variants"][0]["weight"] == 90.0


def test_a_lost_store_is_refilled_from_the_published_table(tmp_path: Path) -> None:
    """Without its database the group serves the same routes under a higher number."""
    settings = {"config": config(tmp_path / "state")}
    with running({**settings, "routes": routes(weight=70.0)}, tmp_path / "log") as group:
        group.put(routes(weight=60.0))
    for path in (tmp_path / "state").glob("state.db*"):
        path.unlink()
    with running(settings, tmp_path / "log") as group:
        found = group.get("/routes")
        assert (found["generation"], found["routes"][0]["variants"][0]["weight"]) == (3, 60.0)


def test_a_corrupt_store_ends_serve_with_its_own_code(tmp_path: Path) -> None:
    """One message, no traceback; with `degraded` the last table is served all the same."""
    settings = {"config": config(tmp_path / "state"), "routes": routes()}
    with running(settings, tmp_path / "log") as group:
        group.served()
    (tmp_path / "state" / "state.db").write_bytes(b"garbage" * 1000)
    log = tmp_path / "second.log"
    with start(settings, log) as group:
        assert group.process.wait(30) == ExitCode.STORE
    assert "is corrupt" in log.read_text()
    assert "Traceback" not in log.read_text()
    with running({**settings, "degraded": True}, tmp_path / "third.log") as group:
        assert group.served()[2] == 1


def test_a_second_group_on_one_state_directory_is_refused(tmp_path: Path) -> None:
    """The first goes on."""
    settings = {"config": config(tmp_path / "state")}
    with running(settings, tmp_path / "log") as first:
        with start(settings, tmp_path / "other") as second:
            assert second.process.wait(30) == ExitCode.STORE
        assert "in use by another Sluice" in (tmp_path / "other").read_text()
        assert first.served()[2] == 1


def test_workers_that_die_at_once_end_serve(tmp_path: Path) -> None:
    """Nothing can start: an exit code and the reason instead of restarts for ever."""
    with start({"config": config(tmp_path / "state")}, tmp_path / "log", mode="die") as group:
        assert group.process.wait(30) == ExitCode.FAILED
    assert "giving up" in (tmp_path / "log").read_text()


def test_a_hung_worker_is_reported_and_killed(tmp_path: Path) -> None:
    """Without a sign of life: first a warning, then SIGKILL and a new process."""
    settings = {"config": config(tmp_path / "state", supervision={"warn_s": 0.5, "kill_s": 2.0})}
    with running(settings, tmp_path / "log", mode="hang") as group:
        first = group.served()[1]
        until(lambda: group.served()[1] != first)
    text = (tmp_path / "log").read_text()
    assert "gives no sign of life" in text
    assert "hangs and is killed" in text


@pytest.mark.parametrize("role", ["controller", "worker"])
def test_a_stopped_process_is_replaced(tmp_path: Path, role: str) -> None:
    """SIGSTOP of either: nobody is turned away, and in the end it is killed and another one has its place."""
    settings = {"config": config(tmp_path / "state", workers=2, supervision={"warn_s": 0.5, "kill_s": 1.5})}
    with running(settings, tmp_path / "log") as group:
        victim = group.children()[role]
        os.kill(victim, signal.SIGSTOP)
        until(lambda: f"{role} hangs and is killed" in (tmp_path / "log").read_text())
        until(lambda: victim not in group.children().values() and len(group.children()) == 3)
        until(lambda: [row["connected"] for row in group.get("/workers")] == [True, True])
        assert {group.served()[1] for _ in range(20)} <= set(group.children().values())
    text = (tmp_path / "log").read_text()
    assert text.index(f"{role} gives no sign of life") < text.index(f"{role} hangs and is killed")


def test_a_stopped_and_continued_group_kills_nobody(tmp_path: Path) -> None:
    """While the supervisor itself was stopped nobody's silence counts."""
    settings = {"config": config(tmp_path / "state", supervision={"warn_s": 0.5, "kill_s": 1.0})}
    with running(settings, tmp_path / "log") as group:
        children = group.children()
        everyone = [group.process.pid, *children.values()]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2)  # the silence is the subject
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)
        until(lambda: group.served()[2] >= 0)
        assert group.children() == children
    assert "hangs and is killed" not in (tmp_path / "log").read_text()


def test_stop_is_bounded_and_a_second_interrupt_is_at_once(tmp_path: Path) -> None:
    """A worker that ignores SIGTERM is killed after the grace, or when the user insists."""
    settings = {"config": config(tmp_path / "state", limits={"drain_s": 60.0})}
    with running(settings, tmp_path / "log", mode="stubborn") as group:
        children = group.children()
        group.process.send_signal(signal.SIGINT)
        assert group.process.poll() is None
        assert _insist(group) == 0
    assert all(not Path(f"/proc/{pid}").exists() for pid in children.values())
    settings = {"config": config(tmp_path / "state", limits={"drain_s": 0.0})}
    with running(settings, tmp_path / "log", mode="stubborn") as group:
        began = time.monotonic()
        assert group.stop() == 0
        assert time.monotonic() - began < 15


def _refused(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) != 0


def _insist(group: Group) -> int | None:
    """Interrupts, and once more only when nothing came of it: two signals that wait at once are one."""
    for _ in range(5):
        group.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return group.process.wait(3)
    return None


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG: SIGKILL of the supervisor ends all."""
    with running({"config": config(tmp_path / "state", workers=2)}, tmp_path / "log") as group:
        children = list(group.children().values())
        assert len(children) == 3
        group.stop(signal.SIGKILL)
        until(lambda: all(not Path(f"/proc/{pid}").exists() for pid in children))
        assert _refused(group.data_url)


def test_a_port_in_use_is_one_message(tmp_path: Path) -> None:
    """Nothing starts, and the message names the port and the option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for key, option in (("listen", "--listen"), ("admin", "--admin")):
            settings = {"config": config(tmp_path / "state", **{key: {"port": port}})}
            log = tmp_path / key
            with start(settings, log) as group:
                assert group.process.wait(30) != 0
            assert f"port {port} on 127.0.0.1 is already in use" in log.read_text()
            assert option in log.read_text()


def test_an_open_admin_api_needs_its_token(tmp_path: Path) -> None:
    """With a token: 401 without it, health stays open, any Host is fine."""
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    settings = {"config": config(tmp_path / "state", admin={"port": 0, "host": "0.0.0.0", "token_file": str(token)})}
    with running(settings, tmp_path / "log") as group, httpx.Client(base_url=group.admin_url) as api:
        assert api.get("/api/v1/routes").status_code == 401
        assert api.get("/metrics").status_code == 401
        assert api.get("/healthz").status_code == 200
        for bad in ("Bearer wrong", "Basic correct-horse-battery", "Bearer", "correct-horse-battery"):
            assert api.get("/api/v1/routes", headers={"authorization": bad}).status_code == 401
        good = {"authorization": "Bearer correct-horse-battery", "host": "gateway.example"}
        assert api.get("/api/v1/routes", headers=good).status_code == 200


def test_new_pools_make_a_new_generation(tmp_path: Path) -> None:
    """Pools belong to the table: other settings at the next start are published."""
    settings = config(tmp_path / "state")
    with running({"config": settings, "routes": routes()}, tmp_path / "log") as group:
        assert group.get("/table")["generation"] == 1
    settings["pools"] = [{"name": "default", "backends": [{"url": "http://127.0.0.1:2"}]}]
    with running({"config": settings}, tmp_path / "log") as group:
        table = group.get("/table")
        assert (table["generation"], table["pools"][0]["backends"][0]["url"]) == (2, "http://127.0.0.1:2")
        assert group.get("/generations?limit=1")[0]["kind"] == "config"
    settings["pools"] = [{"name": "other", "backends": [{"url": "http://127.0.0.1:2"}]}]
    log = tmp_path / "misfit"
    with start({"config": settings}, log) as group:
        assert group.process.wait(30) == ExitCode.CONFIG
    assert "stored routes: routes[0].variants[0].pool: pool 'default' does not exist (known: other)" in log.read_text()


def test_workers_keep_freed_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Glibc reads its settings from the environment when a process starts; what an operator set there stands."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1048576")
    with running({"config": config(tmp_path / "state"), "routes": routes()}, tmp_path / "log") as group:
        processes = group.children()
        environ = Path(f"/proc/{processes['worker']}/environ").read_bytes().split(b"\0")
        controller = Path(f"/proc/{processes['controller']}/environ").read_bytes()
    assert b"MALLOC_TRIM_THRESHOLD_=33554432" in environ
    assert b"MALLOC_MMAP_THRESHOLD_=1048576" in environ
    assert b"MALLOC_TRIM" not in controller
