"""`sluice demo`, whole and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.demo.commands import CommandError, Deadline, Service, run
from gateway.errors import ExitCode, UnreachableError

COMMAND = [sys.executable, "-c", "from gateway.cli import main; main()", "demo"]


def descendants_by_mark(mark: str) -> list[int]:
    """Processes other than this one whose arguments contain a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in arguments:
                found.append(int(entry.name))
    return found


def gone(mark: str, within_s: float = 20.0) -> bool:
    """Whether no process with that mark is left, soon."""
    deadline = time.monotonic() + within_s
    while descendants_by_mark(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
@pytest.mark.timeout(340)
def test_the_demo_proves_its_claims_and_leaves_nothing_running(tmp_path: Path) -> None:
    """Real exports behind a real Triton: fair shares, the manifests' accuracies, counted shadows, nothing left."""
    directory, file = tmp_path / "demo", tmp_path / "report.json"
    command = [*COMMAND, "--directory", str(directory), "--json", str(file), "--requests", "2000"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=330, check=False)
    assert result.returncode == ExitCode.OK, result.stderr + result.stdout
    report = json.loads(file.read_text())
    assert report["ok"] is True
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert report["held_out_accuracy"] == report["manifest_accuracy"]
    assert report["held_out_accuracy"]["v3"] < report["held_out_accuracy"]["v1"] < report["held_out_accuracy"]["v2"]
    counts = {name: variant["requests"] for name, variant in report["traffic"]["variants"].items()}
    assert sum(counts.values()) == 2000
    assert report["shadow"]["copies"] > 0
    assert report["urls"]["metrics"] in result.stdout
    phases = {route: rollout["phase"] for route, rollout in report["rollouts"].items()}
    assert phases == {"digits-better": "completed", "digits-skewed": "aborted", "digits-raising": "aborted"}
    raising = report["rollouts"]["digits-raising"]
    assert raising["export_checks"] == {"parity": "ok", "serve-check": "ok"}
    assert 0 < raising["candidate_errors"] <= raising["candidate_requests"] <= 50
    assert f"requests that met the candidate: {raising['candidate_requests']}" in result.stdout
    assert f"{raising['verdict_to_last_switch_s']:.3f} s from the verdict to the last worker's switch" in result.stdout
    assert gone(str(directory))


def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """SIGTERM in its first stage ends the command that it runs, too."""
    directory = tmp_path / "demo"
    with subprocess.Popen([*COMMAND, "--directory", str(directory)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 90
        while len(descendants_by_mark(str(directory))) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "it has started nothing"
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert gone(str(directory))


def test_a_demo_that_runs_out_of_time_says_where(tmp_path: Path) -> None:
    """The message names what was being waited for."""
    command = [*COMMAND, "--directory", str(tmp_path / "demo"), "--time-limit", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == ExitCode.UNREACHABLE
    assert "not done within 1 s: sluice export" in result.stderr
    assert "Traceback" not in result.stderr
    assert gone(str(tmp_path / "demo"))


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """One message with the path, before anything is started."""
    (tmp_path / "file").write_text("")
    command = [*COMMAND, "--directory", str(tmp_path / "file" / "demo")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == ExitCode.RESOURCE
    assert "cannot write to" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    """The demo deletes only what a demo has written."""
    (tmp_path / "mine.txt").write_text("precious")
    command = [*COMMAND, "--directory", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == ExitCode.CONFIG
    assert "has other files in it" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_command_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """The error has the command, its status, what it printed and where its log is."""
    with pytest.raises(CommandError, match=r"`sluice triton` ended with status 3:\n.*nowhere is not a directory") as e:
        run(["triton", "--repository", str(tmp_path / "nowhere")], log=tmp_path / "log", deadline=Deadline(30))
    assert str(tmp_path / "log") in str(e.value)


def test_a_service_that_never_serves_is_reported(tmp_path: Path) -> None:
    """One that ends instead of serving gives its last words, not a time-out."""
    service = Service(["triton", "--repository", str(tmp_path / "nowhere")], log=tmp_path / "log", detached=False)
    with pytest.raises(CommandError, match="is not a directory"):
        service.ready(Deadline(30))
    service.stop()


def test_a_passed_deadline_names_what_was_waited_for() -> None:
    """The limit and the wait are both in the text."""
    with pytest.raises(UnreachableError, match="not done within 0 s: the bus"):
        Deadline(0).left("the bus")
