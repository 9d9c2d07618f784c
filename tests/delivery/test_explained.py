"""What people are shown: every gate with its evidence, what comes next, and what would be decided."""

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from gateway.errors import ExitCode
from gateway.telemetry.records import Outcome
from tests.delivery.world import World, eventually, quick, route, world

PATIENT = quick(steps=[{"weight": 20, "min_time_s": 3600, "min_samples": 20}, {"weight": 50}])


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Some of the old version's requests fail, of the new one's fewer."""
    with world(tmp_path_factory.mktemp("w"), [route(name) for name in ("told", "tried", "watched")]) as found:
        found.worker.outcome = lambda name, variant, rng: (
            Outcome.UPSTREAM_ERROR if rng.random() < (0.05 if variant == "old" else 0.02) else Outcome.OK
        )
        yield found


def test_a_verdict_explains_itself(w: World) -> None:
    """Statistic and bound for failing and for passing, samples, interval, what would change it, the next decision."""
    w.begin("told", PATIENT)
    w.until("told", "judging")

    def judged() -> bool:
        verdict = w.rollout("told")["verdict"]
        return verdict is not None and verdict["gates"][0]["effect"] is not None and verdict["samples"] >= 100

    eventually(judged, 60)
    found = w.rollout("told")
    (gate,) = found["verdict"]["gates"]
    assert gate["gate"] == "errors"
    assert gate["counts"] is True
    assert 0 < gate["statistic"] < gate["bound"] == pytest.approx(100.0)
    assert gate["pass_bound"] == pytest.approx(20.0)
    assert gate["pass_statistic"] > 0
    assert gate["samples"] >= 100
    assert gate["reference_samples"] > gate["samples"]
    assert gate["effect_low"] <= gate["effect"]
    assert re.search(r"\d+ of \d+ server errors", gate["reason"])
    assert re.search(r"\d+ more .* would fail it", gate["would_change"])
    assert found["next_decision_at"] == pytest.approx(found["entered"] + 3600)
    page = str(w.admin.base_url).replace("/api/v1/", "/metrics")
    text = w.admin.get(page).text
    for name in ("info", "evidence", "bound", "effect"):
        assert re.search(rf'sluice_gate_{name}\{{gate="errors".*route="told"\}} ', text), name
    assert re.search(r'sluice_rollout_info\{candidate="new",phase="judging",route="told"\} 1.0', text)
    assert re.search(r'sluice_rollout_samples\{candidate="new",route="told"\} [1-9]', text)
    w.command("told", "abort")
    w.until("told", "aborted")


def test_a_dry_run_judges_without_acting(w: World) -> None:
    """Another policy's gates are asked about evidence that is there; a command's decision is told, not taken."""
    assert w.begin("tried", PATIENT, dry_run=True).json()["verdict"] is None, "nothing was ever seen"
    w.begin("tried", PATIENT)
    w.until("tried", "judging")
    eventually(lambda: (w.rollout("tried")["verdict"] or {}).get("samples", 0) >= 100, 60)
    strict = {**PATIENT, "gates": {"errors": {}, "latency": None, "guardrails": {"error_rate": 0.001}}}
    other = w.begin("tried", strict, dry_run=True)
    assert other.status_code == 201, "beside the one that runs"
    gates = {gate["gate"].split(":")[0]: gate for gate in other.json()["verdict"]["gates"]}
    assert set(gates) == {"errors", "guardrails"}
    assert gates["errors"]["samples"] >= 100
    would = w.command("tried", "abort", dry_run=True, why="just asking").json()
    assert (would["phase"], would["reason"]) == ("aborting", "abort by api: just asking")
    assert "weights" in would["outstanding"]
    assert w.command("tried", "resume", dry_run=True).status_code == 409
    found = w.rollout("tried")
    assert (found["phase"], found["weight"]) == ("judging", 20.0)
    assert not [d for d in w.decisions("tried") if d["event"] in {"abort", "refused_command"}]
    w.command("tried", "abort")
    w.until("tried", "aborted")
    again = w.begin("tried", strict, dry_run=True).json()
    assert (again["phase"], again["decisions"]) == ("pending", 0)
    assert again["verdict"]["samples"] >= 100, "the last rollout's evidence is there to be asked"
    gone = w.command("tried", "abort", dry_run=True)
    assert (gone.status_code, "no rollout is running" in gone.json()["error"]) == (409, True)


@pytest.mark.timeout(180)
def test_status_is_watched_on_a_terminal_until_the_end(w: World) -> None:
    """It follows every turn, lives through a controller's restart, and ends with the exit code of a bad end."""
    w.begin("watched", PATIENT)
    w.until("watched", "judging")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "SLUICE_ADMIN_URL": str(w.admin.base_url).removesuffix("/api/v1/"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "gateway.cli", "rollout", "status", "watched", "--watch"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.append(data)
        except OSError:
            pass  # the terminal is closed with the process

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def sees(what: str) -> None:
        eventually(
            lambda: what in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", b"".join(shown)).decode(errors="replace"), 60
        )

    try:
        for what in ("judging", "GATE", "errors", "the clock alone decides in", "candidate 20 %"):
            sees(what)
        w.command("watched", "pause", why="a restart")
        sees("pause by api: a restart")
        w.order("kill")
        w.start()
        w.command("watched", "abort", why="seen enough")
        sees("abort by api: seen enough")
        assert process.wait(60) == ExitCode.REJECTED
        sees("aborted")
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        os.close(ours)
