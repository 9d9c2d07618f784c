"""`sluice rollout plan` on the command line."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli_plan import plan_command
from gateway.errors import RejectedError

app = typer.Typer()
app.command()(plan_command)
QUICK = ["--rate", "500", "--worse", "0.2", "--rollouts", "20", "--horizon-s", "300"]
POLICY = "steps: [{weight: 10, min_time_s: 5, slack: 3}]\n"


def test_figures_as_json(tmp_path: Path) -> None:
    """With a policy file and JSON, each step's figures are there to be read by a program."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    result = CliRunner().invoke(app, [*QUICK, "--policy", str(tmp_path / "policy.yaml"), "-o", "json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [step["weight"] for step in found["steps"]] == [10]
    assert found["caught"] == 1
    assert found["steps"][0]["catch_requests"] > 0


def test_figures_as_a_table(tmp_path: Path) -> None:
    """People get a row per step and a sentence on the whole rollout."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    result = CliRunner().invoke(app, [*QUICK, "--policy", str(tmp_path / "policy.yaml")])
    assert result.exit_code == 0, result.output
    said = result.stdout + result.stderr
    assert "step 1 (10 %)" in said
    assert "to pass" in said
    assert "to catch" in said
    assert "promoted after" in said.replace("\n", " ")


def test_a_route_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A wrong route name is refused with the names that exist."""
    (tmp_path / "routes.yaml").write_text(
        "routes:\n  - {name: digits, variants: [{name: v1, model: digits, weight: 100}]}\n"
    )
    result = CliRunner().invoke(app, [*QUICK, "--routes", str(tmp_path / "routes.yaml"), "--route", "digit"])
    assert isinstance(result.exception, RejectedError)
    assert "no route 'digit' (it has: digits)" in str(result.exception)


@pytest.mark.parametrize("missing", ["--rate", "--worse"])
def test_rates_are_required(missing: str) -> None:
    """Without a request rate or a regression there is nothing to plan."""
    at = QUICK.index(missing)
    result = CliRunner().invoke(app, QUICK[:at] + QUICK[at + 2 :])
    assert result.exit_code == 2
