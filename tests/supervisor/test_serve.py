"""`sluice serve` and its commands for real: real workers in front of a real Triton."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.cli import main
from gateway.errors import ExitCode
from gateway.localtriton.server import LocalTriton
from tests.supervisor.group import until

ROUTES = """\
routes:
  - name: sums
    variants:
      - {name: old, model: add_sub, version: 1, weight: 90}
      - {name: new, model: add_sub, weight: 10}
    shadows:
      - {variant: new, sample: 5}
"""


@dataclass
class Served:
    """A gateway started by the command line."""

    process: subprocess.Popen[bytes]
    data_url: str
    admin_url: str


@pytest.fixture(scope="module")
def served(triton: LocalTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`sluice serve` with two workers and the zoo's Triton."""
    place = tmp_path_factory.mktemp("serve")
    options = ["--pool", triton.http_url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2"]
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "serve",
        *options,
        "--state-dir",
        str(place / "state"),
        "-o",
        "json",
    ]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=place)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (place / "log").read_text()
        ready = json.loads(line)
        yield Served(process, ready["data_url"], ready["admin_url"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "Traceback" not in (place / "log").read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class Result:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def sluice(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command against the gateway, through the same entry point as the installed one."""
    monkeypatch.setenv("SLUICE_ADMIN_URL", served.admin_url)

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["sluice", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture
def routes_file(tmp_path: Path) -> Path:
    """A valid routes.yaml."""
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES)
    return path


def _infer(served: Served) -> httpx.Response:
    data = [float(i) for i in range(16)]
    inputs = [{"name": f"INPUT{i}", "datatype": "FP32", "shape": [1, 16], "data": data} for i in (0, 1)]
    url = f"{served.data_url}/v2/models/sums/infer"
    return httpx.post(url, json={"inputs": inputs}, timeout=20, trust_env=False)


def test_apply_serve_and_take_back(sluice: Any, served: Served, routes_file: Path) -> None:
    """Dry run, apply, inference, history, rollback: the whole life of a route by commands."""
    dry = sluice("apply", routes_file, "--dry-run")
    assert (dry.code, "+- name: sums" in dry.out, "dry run" in dry.out) == (0, True, True)
    before = json.loads(sluice("get", "routes", "-o", "json").out)["generation"]
    done = json.loads(sluice("apply", routes_file, "--why", "first", "-o", "json").out)
    assert (done["generation"], done["applied"], done["late"]) == (before + 1, [0, 1], [])
    answer = _infer(served)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-sluice-route"] == "sums"
    again = sluice("apply", routes_file)
    assert "nothing to change" in again.out
    routes_file.write_text(ROUTES.replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50"))
    shown = sluice("apply", routes_file).out
    assert "-    weight: 90.0" in shown
    assert "+    weight: 50.0" in shown
    back = sluice("rollback", "--why", "slower")
    assert (back.code, "generation" in back.out) == (0, True)
    newest, middle = json.loads(sluice("history", "--limit", "2", "-o", "json").out)
    assert (newest["kind"], newest["why"], newest["current"]) == ("rollback", "slower", True)
    assert middle["who"].count("@") == 1
    assert [r["weight"] for r in json.loads(sluice("get", "routes", "-o", "json").out)["routes"][0]["variants"]] == [
        90,
        10,
    ]


def test_what_get_prints_can_be_applied(sluice: Any, routes_file: Path, tmp_path: Path) -> None:
    """`get routes -o yaml` is a routes.yaml."""
    assert sluice("apply", routes_file).code == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(sluice("get", "routes", "-o", "yaml").out)
    assert yaml.safe_load(copy.read_text())["routes"][0]["variants"][1] == {
        "name": "new",
        "model": "add_sub",
        "weight": 10.0,
    }
    assert "nothing to change" in sluice("apply", copy).out


@pytest.mark.parametrize("what", ["routes", "workers", "backends", "generations", "table", "audit"])
def test_every_read_prints_json_yaml_and_a_table(sluice: Any, routes_file: Path, what: str) -> None:
    """The same values in each format."""
    assert sluice("apply", routes_file).code == 0
    assert json.loads(sluice("get", what, "-o", "json").out)
    assert yaml.safe_load(sluice("get", what, "--output", "yaml").out)
    table = sluice("get", what).out
    assert table.splitlines()[0].isupper()
    assert len(table.splitlines()) > 1


def test_metrics_count_what_was_served(served: Served, sluice: Any, routes_file: Path) -> None:
    """Requests to the data plane appear in the controller's metrics, with the backend that took them."""
    assert sluice("apply", routes_file).code == 0
    for _ in range(5):
        assert _infer(served).status_code == 200

    def counted() -> bool:
        text = httpx.get(f"{served.admin_url}/metrics", trust_env=False).text
        rows = [row for row in text.splitlines() if row.startswith('sluice_requests_total{outcome="ok",route="sums"')]
        return sum(float(row.rpartition(" ")[2]) for row in rows) >= 5

    until(counted)
    until(lambda: json.loads(sluice("get", "backends", "-o", "json").out)[0]["requests"] >= 5)
    assert httpx.get(f"{served.admin_url}/readyz", trust_env=False).status_code == 200


def test_a_worker_is_small(served: Served, sluice: Any) -> None:
    """An idle worker holds at most 60 MB and none of the control plane's libraries."""
    workers = json.loads(sluice("get", "workers", "-o", "json").out)
    for worker in workers:
        assert worker["rss_bytes"] < 60e6
        maps = Path(f"/proc/{worker['pid']}/maps").read_text()
        assert not any(name in maps for name in ("pydantic", "sqlalchemy", "numpy"))


SURE = """
pools:
  - {name: default, tls: {verify: false}, backends: [{url: "https://a:1", grpc_port: 2}]}
"""
_MISSING = ROUTES.replace("model: add_sub, version: 1", "model: add_sub, version: 7")


@pytest.mark.parametrize(
    ("arguments", "file", "code", "says"),
    [
        (
            ["apply"],
            _MISSING,
            ExitCode.CONFIG,
            "model 'add_sub' version 7 is ready on no backend of pool 'default'; there",
        ),
        (["apply"], ROUTES.replace("10}", "20}"), ExitCode.CONFIG, "weights of route 'sums' sum to 110"),
        (["apply"], ROUTES.replace("model:", "modell:"), ExitCode.CONFIG, "did you mean 'model'?"),
        (
            ["apply"],
            ROUTES.replace("add_sub,", "add_sub, pool: other,"),
            ExitCode.CONFIG,
            "pool 'other' does not exist",
        ),
        (["apply"], "", ExitCode.CONFIG, "the file is empty"),
        (["apply", "--if-generation", "0"], ROUTES, ExitCode.REJECTED, "generation 0 is no longer current"),
        (["apply", "--admin-url", "http://127.0.0.1:1"], ROUTES, ExitCode.UNREACHABLE, "start one with `sluice serve`"),
        (["apply", "--admin-url", "nonsense"], ROUTES, ExitCode.CONFIG, "is not a URL"),
        (["apply", "--admin-url", "{data}"], ROUTES, ExitCode.UNREACHABLE, "not a Sluice admin API"),
        (["apply", "/nowhere.yaml"], None, ExitCode.CONFIG, "no such file"),
        (["rollback", "99999"], None, ExitCode.REJECTED, "generation 99999 does not exist"),
        (["rollback", "x"], None, ExitCode.USAGE, "unable to parse string as an integer"),
        (["get", "everything"], None, ExitCode.USAGE, "is not one of"),
        (["aply"], None, ExitCode.USAGE, "Did you mean 'apply'?"),
        (["serve", "--pool", "localhost:8000", "--dry-run"], None, ExitCode.CONFIG, "must start with http://"),
        (["serve", "--pool", "http://a:1,grpc=2", "--dry-run"], None, ExitCode.CONFIG, "grpc: unknown key"),
        (["serve", "--pool", "http://a:1,grpc_port=x", "--dry-run"], None, ExitCode.CONFIG, "grpc_port: must be"),
        (["serve", "--pool", "http://a:1,weight=2,weight=3", "--dry-run"], None, ExitCode.CONFIG, "each key once"),
        (["serve", "--pool", "http://a:1,", "--dry-run"], None, ExitCode.CONFIG, "must be URL[,KEY=VALUE...]"),
        (["serve", "--config"], SURE, ExitCode.CONFIG, "pools[0].backends[0].grpc_port: gRPC checks the certificate"),
        (["serve", "--listen", "1.2.3.4", "--dry-run"], None, ExitCode.CONFIG, "must be HOST:PORT"),
        (["serve", "--admin", "0.0.0.0:9000", "--dry-run"], None, ExitCode.CONFIG, "set admin.token_file"),
        (["serve", "--listen", "203.0.113.1:0"], None, ExitCode.RESOURCE, "is not an address of this machine"),
        (["serve", "--state-dir", "/proc/x", "--listen", "0"], None, ExitCode.RESOURCE, "cannot create the state"),
        (["serve", "--config"], "workerz: 2\n", ExitCode.CONFIG, "did you mean 'workers'?"),
        (["serve", "--dry-run", "--routes"], ROUTES.replace("90", "80"), ExitCode.CONFIG, "sum to 90, not 100"),
    ],
)
def test_every_mistake_is_one_message_and_an_exit_code(
    sluice: Any, served: Served, tmp_path: Path, arguments: list[str], file: str | None, code: int, says: str
) -> None:
    """No traceback, nothing on standard output, the documented code."""
    arguments = [argument.replace("{data}", served.data_url) for argument in arguments]
    if file is not None:
        path = tmp_path / "given.yaml"
        path.write_text(file)
        arguments.append(str(path))
    result = sluice(*arguments)
    plain = " ".join(result.err.replace("│", " ").split())
    assert (result.code, result.out) == (code, ""), plain
    assert says in plain
    assert "Traceback" not in result.err


def test_a_missing_model_lists_what_there_is(sluice: Any, tmp_path: Path) -> None:
    """The message helps to correct the name."""
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES.replace("model: add_sub, version: 1", "model: ad_sub"))
    refused = sluice("apply", path)
    assert "model 'ad_sub' is ready on no backend" in refused.err
    assert "add_sub/1" in refused.err
    assert sluice("apply", path, "--no-verify", "--dry-run").code == 0


def test_help_needs_no_optional_package(sluice: Any) -> None:
    """`sluice --help` lists every command, those of other packages included."""
    text = sluice("--help").out
    for name in ("serve", "apply", "get", "history", "rollback", "demo", "triton", "export", "loadtest", "version"):
        assert name in text


def test_killed_workers_and_controller_under_load(served: Served, sluice: Any, routes_file: Path) -> None:
    """SIGKILL of each: the port never refuses; only requests inside a killed worker can be lost."""
    assert sluice("apply", routes_file).code == 0
    lost = 0
    for round_ in range(3):
        workers = json.loads(sluice("get", "workers", "-o", "json").out)
        os.kill(workers[round_ % 2]["pid"], signal.SIGKILL)
        for _ in range(10):
            try:
                assert _infer(served).status_code == 200
            except httpx.ConnectError:
                raise
            except httpx.TransportError:
                lost += 1
        until(lambda: all(w["connected"] for w in json.loads(sluice("get", "workers", "-o", "json").out)))
    assert lost <= 3
