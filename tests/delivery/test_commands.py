"""The commands of delivery, through the entry point that is installed, against a real controller."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.errors import ExitCode
from gateway.telemetry.records import Outcome
from tests.delivery.world import World, quick, route, world

Sluice = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One route for a rollout that ends well, one for a bad end, one that is paused."""
    routes = [route(name, rollout=quick(steps=[{"weight": 20, "min_time_s": 0, "min_samples": 20, "slack": 20}]))
              for name in ("good", "bad", "slow")]  # fmt: skip
    with world(tmp_path_factory.mktemp("w"), routes) as found:
        found.worker.outcome = lambda name, variant, _: (
            Outcome.UPSTREAM_ERROR if (name, variant) == ("bad", "new") else Outcome.OK
        )
        yield found


@pytest.fixture
def sluice(w: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sluice:
    """Runs a command; returns its exit code, standard output and standard error."""
    monkeypatch.setenv("SLUICE_ADMIN_URL", str(w.admin.base_url).removesuffix("/api/v1/"))

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sluice", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code if isinstance(ended.value.code, int) else 0, printed.out, printed.err

    return run


def test_a_rollout_watched_to_its_good_end(sluice: Sluice) -> None:
    """`start --watch` returns when it is over; status and history explain it afterwards."""
    code, out, _ = sluice("rollout", "start", "good", "--watch", "--why", "better")
    assert (code, "completed" in out) == (0, True)
    code, out, _ = sluice("rollout", "status", "good")
    assert "old -> new" in out
    found = json.loads(sluice("rollout", "status", "good", "-o", "json")[1])
    assert (found["phase"], found["why"]) == ("completed", "better")
    history = json.loads(sluice("rollout", "history", "good", "-o", "json")[1])
    assert history[0]["event"] == "start"
    assert "passed_last" in sluice("rollout", "history", "good")[1]
    assert "good.1" in sluice("rollout", "status")[1]


def test_a_bad_end_has_an_exit_code(sluice: Sluice) -> None:
    """A pipeline that watches a rollout sees that it was taken back."""
    code, out, _ = sluice("rollout", "start", "bad", "--watch", "-o", "json")
    assert (code, json.loads(out)["phase"]) == (ExitCode.REJECTED, "aborted")


def test_commands_and_their_refusals(sluice: Sluice, tmp_path: Path) -> None:
    """A policy of one's own, dry runs, pause, resume, rollback by route; each refusal is one message."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(quick(steps=[{"weight": 5, "min_time_s": 3600}])))
    code, out, _ = sluice("rollout", "start", "slow", "--policy", policy, "--dry-run")
    assert (code, "step 1 (5 %)" in out) == (0, True)
    assert sluice("rollout", "pause", "slow")[0] == ExitCode.REJECTED
    assert sluice("rollout", "start", "slow", "--policy", policy)[0] == 0
    code, _, err = sluice("rollout", "start", "slow")
    assert (code, "is on route 'slow' already" in err) == (ExitCode.REJECTED, True)
    code, out, _ = sluice("rollout", "abort", "slow", "--dry-run", "-o", "json")
    assert (code, json.loads(out)["final"]) == (0, False)
    code, out, _ = sluice("rollback", "--route", "slow", "--why", "never mind", "-o", "json")
    assert (code, json.loads(out)["phase"]) in {(0, "aborting"), (0, "aborted")}
    policy.write_text("stepz: []\n")
    code, _, err = sluice("rollout", "start", "slow", "--policy", policy)
    assert (code, f"{policy}:1: stepz: unknown key 'stepz'; did you mean 'steps'?" in err) == (ExitCode.CONFIG, True)
    code, _, err = sluice("rollout", "status", "nowhere")
    assert (code, "there is no rollout 'nowhere'" in err) == (ExitCode.REJECTED, True)


def test_models_and_differences_are_shown(sluice: Sluice) -> None:
    """`models list` and `shadow diff`, for people and programs."""
    rows = json.loads(sluice("models", "list", "-o", "json")[1])
    assert {row["model"] for row in rows} >= {"good", "bad", "slow"}
    assert "READY" in sluice("models", "list")[1]
    assert "no copy has answered differently" in sluice("shadow", "diff", "good")[1]
    assert json.loads(sluice("shadow", "diff", "good", "-o", "json")[1]) == []
