"""A real Prometheus scrapes a real gateway and a real Triton, and evaluates every rule over what it finds."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as client
import yaml

from gateway.localtriton.server import LocalTriton
from tests.telemetry.collector import Collector, collector
from tests.telemetry.tools import ROOT, external, program
from tests.triton.gateway import Gateway, eventually, route, serving

_ROUTE = route("adder", "add_sub", 100.0)


@pytest.fixture(scope="module")
def traces() -> Iterator[Collector]:
    """Where the gateway's spans go."""
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(triton: LocalTriton, traces: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway in front of the session's Triton; every request is traced."""
    tracing = {"endpoint": traces.url, "sample": 100}
    folder = tmp_path_factory.mktemp("gateway")
    with serving(folder, [triton.http_url], [_ROUTE], workers=2, tracing=tracing) as running:
        yield running


@contextlib.contextmanager
def prometheus(folder: Path, gateway: Gateway, triton: LocalTriton) -> Iterator[str]:
    """Prometheus with the project's own configuration, pointed at these servers; yields its URL."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval", "scrape_timeout"), "1s")
    config["rule_files"] = [str(ROOT / "deploy/prometheus/rules/*.yml")]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["sluice"]["static_configs"] = [{"targets": [gateway.admin.removeprefix("http://")]}]
    del jobs["sluice"]["authorization"]
    jobs["triton"]["static_configs"] = [{"targets": [triton.metrics_url.split("/")[2]]}]
    config["scrape_configs"] = [jobs["sluice"], jobs["triton"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address={address}", "--enable-feature=exemplar-storage"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def ask(url: str, path: str, **params: str) -> Any:
    """The `data` of Prometheus's answer."""
    answer = httpx.get(f"{url}/api/v1/{path}", params=params, timeout=10, trust_env=False)
    answer.raise_for_status()
    return answer.json()["data"]


def infer(gateway: Gateway, times: int) -> None:
    """Sends so many inferences."""
    rows = np.ones((1, 16), np.float32)
    inputs = [client.InferInput(f"INPUT{i}", [1, 16], "FP32") for i in (0, 1)]
    for each in inputs:
        each.set_data_from_numpy(rows)
    with client.InferenceServerClient(gateway.address) as connection:
        for _ in range(times):
            connection.infer("adder", inputs)


def test_prometheus_scrapes_the_gateway_and_evaluates_the_rules(
    gateway: Gateway, triton: LocalTriton, traces: Collector, tmp_path: Path
) -> None:
    """Targets are up, nothing they say is refused, series have values, examples lead to traces, rules are healthy."""
    with prometheus(tmp_path, gateway, triton) as url:
        eventually(lambda: len(ask(url, "query", query="up == 1")["result"]) == 2, within_s=60)

        def rate() -> list[Any]:
            infer(gateway, 5)
            found: list[Any] = ask(url, "query", query='sluice:route_requests:rate5m{route="adder"} > 0')["result"]
            return found

        eventually(rate, within_s=60)
        (latency,) = eventually(
            lambda: ask(url, "query", query='sluice:route_latency_seconds:p99_5m{route="adder"} > 0')["result"]
        )
        assert latency["metric"]["route"] == "adder"

        def examples() -> set[str]:
            span = {"start": str(time.time() - 600), "end": str(time.time() + 60)}
            found = ask(url, "query_exemplars", query="sluice_request_duration_seconds_bucket", **span)
            return {example["labels"]["trace_id"] for series in found for example in series["exemplars"]}

        kept = eventually(examples, within_s=60)
        eventually(lambda: kept <= {span.trace for span in traces.spans}, within_s=60)

        def all_evaluated() -> list[Any]:
            rules = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
            return rules if all(rule["health"] != "unknown" for rule in rules) else []

        rules = eventually(all_evaluated, within_s=60)
        assert len(rules) > 30
        assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
        firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
        assert firing == []

        def errors() -> list[str]:
            return [target["lastError"] for target in ask(url, "targets")["activeTargets"]]

        # On a busy machine a scrape may take longer than it may; one that is refused stays refused.
        eventually(lambda: errors() == ["", ""], within_s=60)
        log = (tmp_path / "prometheus.log").read_text()
        assert "duplicate" not in log.lower()
        assert "out-of-order" not in log.lower()


def test_triton_has_the_metrics_that_dashboards_read(gateway: Gateway, triton: LocalTriton) -> None:
    """Those on the list that need no GPU are there once a model has answered."""
    infer(gateway, 1)
    text = httpx.get(triton.metrics_url, timeout=10, trust_env=False).text
    there = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    listed = {name for name in external() if name.startswith("nv_")}
    assert {n for n in listed if not n.startswith(("nv_gpu", "nv_energy", "nv_pinned"))} - there == set()
