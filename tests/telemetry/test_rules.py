"""Rules and alerts: valid, about metrics that exist, with the promised thresholds, and firing when they should."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.telemetry.tools import ROOT, exposed, external, names, program

RULES = ROOT / "deploy/prometheus/rules"


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules of one kind: record or alert."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"] if kind in rule]


ALERTS = {rule["alert"]: rule for rule in rules("alert")}


def test_prometheus_accepts_the_rules() -> None:
    """Expressions and templates are valid, as promtool sees them."""
    command = [program("promtool"), "check", "rules", *map(str, sorted(RULES.glob("*.yml")))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["alerts", "days"])
def test_alerts_fire_when_they_should_and_only_then(name: str) -> None:
    """Promtool's unit tests of the rules pass."""
    file = Path(__file__).parent / "rules" / f"{name}.test.yml"
    command = [program("promtool"), "test", "rules", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_seen_firing_in_a_unit_test() -> None:
    """No alert goes untested."""
    text = "".join(path.read_text() for path in (Path(__file__).parent / "rules").glob("*.test.yml"))
    assert [name for name in ALERTS if f'alertname="{name}", alertstate="firing"' not in text
            and f"alertname: {name}\n        exp_alerts" not in text] == []  # fmt: skip


def test_rules_read_only_metrics_that_exist() -> None:
    """Every name is the gateway's, a recorded one, or on the list of others."""
    known = exposed() | external() | {rule["record"] for rule in rules("record")}
    unknown = {name for kind in ("record", "alert") for rule in rules(kind) for name in names(rule["expr"]) - known}
    assert unknown == set()


def test_recorded_series_are_all_read() -> None:
    """A recorded series that neither an alert nor a dashboard reads is a burden."""
    used = {name for rule in rules("alert") for name in names(rule["expr"])}
    boards = "".join(path.read_text() for path in (ROOT / "deploy/grafana/dashboards").glob("*.json"))
    assert [r["record"] for r in rules("record") if r["record"] not in used and r["record"] not in boards] == []


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    """Severity, summary, description, and a runbook that exists and is about this alert."""
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    runbook = ROOT / rule["annotations"]["runbook"]
    assert runbook.read_text().startswith(f"# {name}\n")


def test_there_is_no_runbook_without_its_alert() -> None:
    """Runbooks and alerts are one to one."""
    assert {path.stem for path in (ROOT / "docs/runbooks").glob("Sluice*.md")} == set(ALERTS)


@pytest.mark.parametrize(
    ("alert", "bound"),
    [
        ("SluiceLatencyMedianHigh", "> 0.02"),
        ("SluiceLatencyP99High", "> 0.1"),
        ("SluiceErrorBudgetBurnFast", "14.4 * 0.001"),
        ("SluicePredictionShift", ">= 0.1"),
        ("SluicePredictionShiftMajor", ">= 0.2"),
        ("SluiceAccuracyDrop", "< 0.95 *"),
    ],
)
def test_thresholds_are_the_objectives(alert: str, bound: str) -> None:
    """p50 20 ms, p99 100 ms, errors 0.1 %, PSI 0.1 and 0.2, accuracy 5 % down."""
    assert bound in ALERTS[alert]["expr"]
