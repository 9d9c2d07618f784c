"""The commands as a user runs them: output, files, exit codes, and no traceback whatever happens."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadtest import results
from loadtest.cli import app
from loadtest.overhead.stub import free_port
from loadtest.scenario import resized
from loadtest.scenario_file import load_scenario
from tests.loadtest.conftest import StartStub
from tests.loadtest.test_results import cells, made


def here(*arguments: str) -> Result:
    """The same without a process of its own, for what sends nothing."""
    return CliRunner().invoke(app, list(arguments))


def loadtest(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m loadtest`."""
    return subprocess.run(
        [sys.executable, "-m", "loadtest", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=cwd,
        check=False,
    )


SHORT = """\
name: short
shape: {kind: steady, level: 4, duration_s: 10}
warmup_s: 0.5
requests: [{name: digit, model: digits, input: digits}]
objectives:
  - {metric: latency_p50_ms, below: LIMIT}
"""


def test_a_run_is_judged_stored_and_reported(start_stub: StartStub, tmp_path: Path) -> None:
    """A run prints its figures, stores JSON and HTML, and exits with 0 or 8 as its objectives hold or not."""
    url = start_stub("--latency", "0.01", "--variant", "v1=0.5", "--variant", "v2=0.5")
    (tmp_path / "good.yaml").write_text(SHORT.replace("LIMIT", "500"))
    (tmp_path / "slo.yaml").write_text("objectives: [{metric: latency_p50_ms, below: 5}]\n")
    stored, report = tmp_path / "r.json", tmp_path / "r.html"
    good = ["run", "-s", str(tmp_path / "good.yaml"), "--host", url]
    passed = loadtest(*good, "--json", str(stored), "--html", str(report))
    assert passed.returncode == 0, passed.stderr
    assert "latency_p50_ms < 500" in passed.stdout
    assert "arm=host,variant=v2" in passed.stdout
    assert report.read_text().startswith("<!doctype html>")
    assert json.loads(stored.read_text())["verdict"] == "pass"

    missed = loadtest(*good, "--objectives", str(tmp_path / "slo.yaml"), "--duration", "3", "-o", "json")
    assert missed.returncode == 8
    assert json.loads(missed.stdout)["objectives"][0]["verdict"] == "fail"

    parts = ["compare", str(stored), "--select-a", "variant=v1", "--select-b", "variant=v2", "-o", "json"]
    compared = loadtest(*parts)
    assert compared.returncode == 0, compared.stderr
    answer = json.loads(compared.stdout)
    assert answer["paired"]
    assert answer["lines"][0]["ratio"] == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "-s", "digits-jso", "--host", "http://x"], 3, "did you mean `digits-json`"),
        (["run", "-s", "digits-json"], 2, "--host URL, or --arm NAME=URL"),
        (["run", "-s", "digits-json", "--arm", "a"], 2, "an arm is NAME=URL"),
        (["run", "-s", "digits-json", "--host", "http://x", "--duration", "2"], 2, "warmup_s 2 leaves nothing"),
        (["run", "-s", "digits-json", "--host", "http://127.0.0.1:1"], 6, "does not answer"),
        (["run", "-s", "digits-json", "--host", "http://x", "--objectives", "none.yaml"], 3, "none.yaml: No such file"),
        (["compare", "none.json", "also-none.json"], 3, "none.json: No such file"),
        (["compare", "none.json", "--select-a", "version=1"], 3, "none.json"),
        (["knee", "--host", "http://x", "--from", "10"], 2, "too short to judge rates below"),
        (["knee", "--host", "http://127.0.0.1:1"], 6, "does not answer"),
        (["worker", "--master", "nowhere"], 2, "must be HOST:PORT"),
    ],
)
def test_mistakes_have_a_message_and_a_code(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake gives one clear message on stderr and its documented code, and no traceback."""
    monkeypatch.chdir(tmp_path)
    ended = here(*arguments)
    assert ended.exit_code == code, ended.stderr
    assert message in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_dry_runs_send_nothing() -> None:
    """A dry run checks the scenario and shows what would be sent."""
    shown = here("run", "-s", "mixed", "--host", "http://127.0.0.1:1", "--dry-run")
    assert shown.exit_code == 0
    assert "sentence: minilm, sentences, binary, batch 1" in shown.stdout
    plan = here("run", "-s", "spike", "--host", "http://127.0.0.1:1", "--dry-run", "--level", "50", "-o", "json")
    assert json.loads(plan.stdout)["scenario"]["shape"]["peak"] == 50


def test_scenarios_are_listed() -> None:
    """Every built-in scenario is shown with what it is for."""
    names = {s["name"] for s in json.loads(here("scenarios", "-o", "json").stdout)}
    assert {"digits-json", "sentences-batch", "2x-peak"} <= names
    assert "Batches of 64 real sentences" in here("scenarios").stdout


def test_the_knee_is_found_on_a_stub(start_stub: StartStub, tmp_path: Path) -> None:
    """A server with one connection and 20 ms an answer takes some 50 requests a second, and the search says so."""
    url = start_stub("--latency", "0.02")
    (tmp_path / "s.yaml").write_text(
        SHORT.replace("LIMIT", "200").replace("kind: steady, level: 4", "kind: steady, level: 20")
        + "connections: 1\narrivals: open\nspacing: even\n"
    )
    options = ["--from", "20", "--to", "200", "--each", "3", "--precision", "1", "--json", str(tmp_path / "k.json")]
    ended = loadtest("knee", "--host", url, "-s", str(tmp_path / "s.yaml"), *options)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "k.json").read_text())
    assert found["knee"]["why"] == "found"
    assert 20 <= found["knee"]["rate_per_s"] <= 55


def test_two_stored_runs_are_compared(tmp_path: Path) -> None:
    """Before against after: slices of two files are resampled apart, and the answer is printed, stored and drawn."""
    scenario = resized(load_scenario("digits-json"), peak=4, duration_s=20)
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    results.write(before, made(scenario, ["host"], cells(["host"], 20, ms=8)))
    results.write(after, made(scenario, ["host"], cells(["host"], 20, ms=4)))
    files = ["--json", str(tmp_path / "c.json"), "--svg", str(tmp_path / "c.svg")]
    shown = here("compare", str(after), str(before), *files)
    assert shown.exit_code == 0, shown.stderr
    assert "after against before" in " ".join(shown.stdout.split())
    found = json.loads((tmp_path / "c.json").read_text())
    p50 = found["lines"][0]
    assert (found["paired"], p50["metric"], p50["finding"]) == (False, "latency_p50_ms", "lower")
    assert p50["low"] <= p50["ratio"] == pytest.approx(0.5, rel=0.01)
    assert (tmp_path / "c.svg").read_text().startswith("<svg")


def test_a_terminal_sees_how_a_run_goes(start_stub: StartStub, tmp_path: Path) -> None:
    """On a terminal a line moves, with rate, latency and errors; it is gone at the end, and a pipe never sees it."""
    (tmp_path / "s.yaml").write_text(SHORT.replace("LIMIT", "5000").replace("duration_s: 10", "duration_s: 6"))
    command = [sys.executable, "-m", "loadtest", "run", "-s", str(tmp_path / "s.yaml"), "--host", start_stub()]
    shown, terminal = pty.openpty()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=terminal, env={**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    )
    os.close(terminal)
    seen = b""
    with suppress(OSError):  # what a terminal says when nobody writes to it any more
        while piece := os.read(shown, 65536):
            seen += piece
    os.close(shown)
    assert process.wait(60) == 0
    assert b"starting the load generators" in seen
    assert re.search(rb"\d/s  p50 [\d.]+ ms  p99 [\d.]+ ms  0 errors", seen)


def test_workers_of_another_machine_generate_the_load(start_stub: StartStub, tmp_path: Path) -> None:
    """`run` waits for workers that connect by TCP, hands them the plan, and counts what they sent."""
    url = start_stub()
    (tmp_path / "s.yaml").write_text(
        SHORT.replace("LIMIT", "500").replace("level: 4, duration_s: 10", "level: 100, duration_s: 3")
        + "arrivals: open\nspacing: even\n"
    )
    address = f"127.0.0.1:{free_port()}"
    worker = subprocess.Popen(
        [sys.executable, "-m", "loadtest", "worker", "--master", address, "--processes", "2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        remote = ["--remote-workers", "2", "--bind", address]
        ended = loadtest("run", "-s", str(tmp_path / "s.yaml"), "--host", url, *remote, "-o", "json")
        assert ended.returncode == 0, ended.stderr
        found = json.loads(ended.stdout)
        assert len(found["generator"]["cpu_shares"]) == 2
        assert found["groups"][0]["rate_per_s"] == pytest.approx(100, rel=0.1)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
