"""Dashboards: made from their source, valid, and about metrics that exist."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.telemetry.catalogue import catalogue
from tests.telemetry.test_rules import rules
from tests.telemetry.tools import ROOT, exposed, external, names, program

GRAFANA = ROOT / "deploy/grafana"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def queries(board: dict[str, Any]) -> Iterator[str]:
    """Every expression of a dashboard, those of its variables too."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in board["templating"]["list"]:
        yield variable["definition"].removeprefix("label_values(").partition(",")[0]


def test_dashboards_are_those_of_the_source() -> None:
    """`python deploy/grafana/build.py` would change nothing."""
    command = [sys.executable, str(GRAFANA / "build.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, f"run python deploy/grafana/build.py\n{result.stdout}{result.stderr}"


def test_there_is_a_dashboard_for_everything_that_was_promised() -> None:
    """Fleet, route, rollout, shadow, Triton, GPU."""
    wanted = {"fleet", "route", "rollout", "shadow", "triton", "gpu"}
    assert {path.stem.removeprefix("sluice-") for path in BOARDS} == wanted


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_reads_only_metrics_that_exist(path: Path) -> None:
    """Every query names the gateway's own, a recorded one, or one on the list of others."""
    known = exposed() | external() | {rule["record"] for rule in rules("record")}
    found = {name for query in queries(json.loads(path.read_text())) for name in names(query)}
    assert found
    assert found - known == set()


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_reads_only_labels_that_exist(path: Path) -> None:
    """Labels that choose, group or name lines are among those of the gateway's metrics that the query reads."""
    families = {series: family for family in catalogue() for series in family.series}
    # Prometheus itself adds where a series was scraped; a histogram's buckets have their bound.
    always = {"instance", "job", "le"}
    looked = 0
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel.get("targets", []):
            read = names(target["expr"])
            if read and read <= families.keys():
                known = always.union(*(families[name].labels for name in read))
                used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", target["expr"]))
                used |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", target["expr"]):
                    used |= {label.strip() for label in group.split(",")}
                assert used <= known, target["expr"]
                looked += 1
    assert looked or path.stem in {"sluice-triton", "sluice-gpu"}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_panels_have_a_source_a_place_and_a_name(path: Path) -> None:
    """The data source is the provisioned one; panels have different ids and do not overlap."""
    board = json.loads(path.read_text())
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": source["uid"]}
            assert panel["title"]
            assert panel["targets"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_prometheus_accepts_every_query(tmp_path: Path) -> None:
    """All expressions are valid PromQL, with Grafana's variables filled in."""
    found = [query for path in BOARDS for query in queries(json.loads(path.read_text()))]
    filled = [
        query.replace("$__rate_interval", "1m").replace("$route", ".*").replace("$model", ".*") for query in found
    ]
    assert "$" not in "".join(filled)
    records = [{"record": f"query:{i}", "expr": query} for i, query in enumerate(filled)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]}))
    command = [program("promtool"), "check", "rules", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
