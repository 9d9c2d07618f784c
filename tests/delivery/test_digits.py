"""Rollouts for real: digits models on a real Triton, real workers, real traffic, ground truth by request id."""

import http.client
import json
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from onnx import TensorProto as T
from onnx import helper

from gateway.demo.digits import held_out
from gateway.localtriton.server import LocalTriton
from tests.delivery.world import eventually
from tests.triton import zoo

_QUICK = {"latency": None, "guardrails": None}
_ERRORS = {"tolerance_ratio": 1.0, "margin_ratio": 4.0}


def _route(name: str, model: str, old: str, new: str, rollout: dict[str, Any], **more: Any) -> dict[str, Any]:
    variants = [
        {"name": "old", "model": model, "version": old, "weight": 100},
        {"name": "new", "model": model, "version": new},
    ]
    return {"name": name, "variants": variants, "rollout": rollout, **more}


def _steps(*weights: float, min_time_s: float = 0.5) -> list[dict[str, Any]]:
    return [{"weight": weight, "min_time_s": min_time_s, "min_samples": 30, "slack": 10} for weight in weights]


def _routes() -> list[dict[str, Any]]:
    accuracy = {"min_samples": 30, "margin_drop": 0.1}
    drift = {"output": "label", "kind": "label", "sample": 100, "min_samples": 100}
    truth = {"predictions": {"output": "label", "kind": "label"}}
    judged = {**_QUICK, "errors": _ERRORS, "accuracy": accuracy}
    better = {"steps": _steps(20, 50), "gates": judged, "rollback_window_s": 1}
    skewed = {"steps": _steps(20, 50, min_time_s=3600), "gates": {**judged, "drift": drift}}
    abrupt: dict[str, Any] = {"steps": [{"weight": 20}, {"weight": 50}]}
    copies = {"strategy": "shadow", "shadow_sample": 100, "max_time_s": 6, "gates": {**_QUICK, "errors": None}}
    copies["gates"]["shadow"] = {"noise_share": 0.4, "min_samples": 20}
    return [
        _route("better", "digits", "1", "2", better, **truth),
        _route("skewed", "digits", "1", "3", skewed, **truth),
        _route("raising", "digits", "1", "4", {}),
        _route("abrupt", "digits", "1", "4", abrupt),
        _route("faulty", "plain", "1", "2", copies),
        _route("noisy", "noisy", "1", "2", copies),
    ]


def _raises_on_digits(path: Path) -> None:
    """Answers made-up zeros well and fails on every real digit: an index grows with the pixels' sum."""
    nodes = [
        helper.make_node("ReduceSum", ["pixels", "axis"], ["sum"], keepdims=0),
        helper.make_node("Div", ["sum", "hundred"], ["tens"]),
        helper.make_node("Cast", ["tens"], ["index"], to=T.INT64),
        helper.make_node("Gather", ["table", "index"], ["label"]),
        helper.make_node("MatMul", ["pixels", "weights"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", T.FLOAT, ["batch", 64])]
    outputs = [
        helper.make_tensor_value_info("logits", T.FLOAT, ["batch", 10]),
        helper.make_tensor_value_info("label", T.INT64, ["batch"]),
    ]
    constants = [
        helper.make_tensor("axis", T.INT64, [1], [1]),
        helper.make_tensor("hundred", T.FLOAT, [], [100.0]),
        helper.make_tensor("table", T.INT64, [1], [0]),
        helper.make_tensor("weights", T.FLOAT, [64, 10], [0.0] * 640),
    ]
    zoo.save(path, nodes, inputs, outputs, constants)


def _identity(root: Path, name: str, version: str, *, noise: float, fault: float) -> None:
    """Y = x, plus noise in every element, plus a fault in the last one."""
    add = [0.0] * 7 + [fault]
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["random"], high=noise, low=-noise, dtype=T.FLOAT),
        helper.make_node("Add", ["x", "random"], ["shaken"]),
        helper.make_node("Add", ["shaken", "fault"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", T.FLOAT, ["batch", 8])]
    outputs = [helper.make_tensor_value_info("y", T.FLOAT, ["batch", 8])]
    zoo.save(
        root / name / version / "model.onnx", nodes, inputs, outputs, [helper.make_tensor("fault", T.FLOAT, [8], add)]
    )
    config = 'max_batch_size: 8\ninput [ { name: "x" data_type: TYPE_FP32 dims: [ 8 ] } ]\n'
    config += 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 8 ] } ]\nversion_policy { all { } }\n'
    zoo.write_config(root / name, config)


@pytest.fixture(scope="module")
def repository(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 1 to 3 as exported, only version 1 served; version 4 raises; identities with noise or a fault."""
    root = tmp_path_factory.mktemp("digits") / "repository"
    shutil.copytree(samples, root)
    config = root / "digits" / "config.pbtxt"
    text = re.sub(
        r"version_policy \{.*?\n\}\n",
        "version_policy { specific { versions: 1 } }\n",
        config.read_text(),
        flags=re.DOTALL,
    )
    config.write_text(re.sub(r"model_warmup \{.*?\n\}\n", "", text, flags=re.DOTALL))
    _raises_on_digits(root / "digits" / "4" / "model.onnx")
    for version, fault in (("1", 0.0), ("2", 0.5)):
        _identity(root, "plain", version, noise=1e-9, fault=fault)
        _identity(root, "noisy", version, noise=0.2, fault=0.0)
    return root


@dataclass
class Gateway:
    """A gateway under test."""

    data_url: str
    admin: httpx.Client
    triton: LocalTriton
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)

    def rollout(self, name: str) -> dict[str, Any]:
        """As the API shows it."""
        found: dict[str, Any] = self.admin.get(f"/rollouts/{name}").json()
        return found

    def run(self, name: str) -> dict[str, Any]:
        """Rolls out under traffic until it is over."""
        with self.traffic(name):
            assert self.admin.post(f"/routes/{name}/rollout").status_code == 201
            eventually(lambda: self.rollout(name)["final"], 100)
        return self.rollout(name)

    @contextmanager
    def traffic(self, name: str) -> Iterator[None]:
        """Four clients that ask with real digits (or eight numbers) and post the truth for each answer."""
        stop = threading.Event()
        digits = held_out()
        errors: list[BaseException] = []
        self.seen.clear()

        def client(seed: int) -> None:
            connection = http.client.HTTPConnection(self.data_url.removeprefix("http://"), timeout=20)
            at, truths = seed, []
            try:
                while not stop.is_set():
                    at = (at + 7) % len(digits.labels)
                    wide = name in {"better", "skewed", "raising", "abrupt"}
                    data = [float(x) for x in digits.pixels[at]] if wide else [float(at % 7)] * 8
                    tensor = {
                        "name": "pixels" if wide else "x",
                        "datatype": "FP32",
                        "shape": [1, len(data)],
                        "data": data,
                    }
                    connection.request("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": [tensor]}))
                    answer = connection.getresponse()
                    answer.read()
                    self.seen[answer.headers["x-sluice-variant"], answer.status] += 1
                    truths.append({"request_id": answer.headers["x-request-id"], "label": int(digits.labels[at])})
                    if len(truths) >= 50:
                        self.admin.post("/feedback", json={"route": name, "truths": truths})
                        truths = []
                    stop.wait(0.004)
            except BaseException as error:  # noqa: BLE001 - told to the test
                errors.append(error)
            finally:
                connection.close()

        clients = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
        for thread in clients:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        assert not errors, errors


@pytest.fixture(scope="module")
def gateway(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`sluice serve` with two workers in front of a real Triton."""
    place = tmp_path_factory.mktemp("gateway")
    (place / "routes.yaml").write_text(yaml.safe_dump({"routes": _routes()}))
    with LocalTriton(repository, log_file=place / "triton.log", exit_timeout_s=1) as triton:
        settings = {"workers": 2, "listen": {"port": 0}, "admin": {"port": 0}}
        (place / "sluice.yaml").write_text(yaml.safe_dump({**settings, "state_dir": str(place / "state")}))
        options = [
            "--config",
            "sluice.yaml",
            "--routes",
            "routes.yaml",
            "--pool",
            f"{triton.http_url},grpc_port={triton.grpc_port}",
            "-o",
            "json",
        ]
        with (place / "log").open("wb") as log:
            command = [sys.executable, "-m", "gateway.cli", "serve", *options]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=place)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (place / "log").read_text()
            ready = json.loads(line)
            with httpx.Client(base_url=ready["admin_url"] + "/api/v1", timeout=30, trust_env=False) as admin:
                yield Gateway(ready["data_url"], admin, triton)
            process.terminate()
            assert process.wait(30) == 0
            assert "Traceback" not in (place / "log").read_text()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _versions(gateway: Gateway) -> set[str]:
    rows = httpx.post(f"{gateway.triton.http_url}/v2/repository/index", trust_env=False).json()
    return {row["version"] for row in rows if row["name"] == "digits" and row.get("state") == "READY"}


def test_a_better_version_is_promoted(gateway: Gateway) -> None:
    """1 -> 2 through all steps on real Triton: no request fails, and the truth shows the better one."""
    found = gateway.run("better")
    assert found["phase"] == "completed", found["reason"]
    assert {status for _, status in gateway.seen} == {200}
    weights = {
        v["name"]: v["weight"]
        for r in gateway.admin.get("/routes").json()["routes"]
        if r["name"] == "better"
        for v in r["variants"]
    }
    assert weights == {"old": 0.0, "new": 100.0}
    accuracy = {
        row["variant"]: row["accuracy"] for row in gateway.admin.get("/accuracy").json() if row["route"] == "better"
    }
    assert accuracy["new"] > accuracy["old"]
    assert "1" in _versions(gateway), "other routes still need version 1"


def test_a_skewed_version_is_taken_back_without_any_error(gateway: Gateway) -> None:
    """1 -> 3: every answer is 200, and yet its predictions or the ground truth give it away."""
    found = gateway.run("skewed")
    assert found["phase"] == "aborted"
    assert found["reason"].startswith(("drift", "accuracy")), found["reason"]
    assert {status for _, status in gateway.seen} == {200}
    assert "3" not in _versions(gateway)


@pytest.mark.parametrize(("name", "most"), [("raising", 50), ("abrupt", 600)])
def test_a_version_that_raises_is_taken_back_quickly(gateway: Gateway, name: str, most: int) -> None:
    """It passes the warm-up and fails on every real digit.

    Under the default policy, which starts with 1 %, about 50 requests see it at most. A first step of 20 % takes as
    many seconds, and therefore more requests. From the verdict to the last worker's switch is less than a second.
    """
    found = gateway.run(name)
    assert found["phase"] == "aborted"
    assert "server errors" in found["reason"] or "error rate" in found["reason"]
    decisions = gateway.admin.get(f"/rollouts/{name}/decisions").json()
    failed = next(d for d in decisions if d["event"] == "failed")
    switched = next(d for d in decisions if d["seq"] > failed["seq"] and "weights weights done" in d["reason"])
    suffered = sum(count for (variant, _), count in gateway.seen.items() if variant == "new")
    assert 0 < suffered <= most
    assert switched["at"] - failed["at"] < 1.0
    assert all(status == 200 for (variant, status) in gateway.seen if variant == "old")


def test_a_seeded_tensor_fault_is_found_by_copies(gateway: Gateway) -> None:
    """0.5 too much in one of eight elements: found, and shown with its place; no client ever saw it."""
    found = gateway.run("faulty")
    assert found["phase"] == "aborted"
    assert {variant for variant, _ in gateway.seen} == {"old"}
    diffs = eventually(lambda: gateway.admin.get("/routes/faulty/diffs").json())
    assert all(not diff["noise"] and diff["index"][-1] == 7 for diff in diffs)
    assert abs(diffs[0]["deviation"] - 0.5) < 1e-3


def test_a_noisy_but_equal_version_is_left_alone(gateway: Gateway) -> None:
    """Both versions answer differently every time: the noise arm takes the blame, not the candidate."""
    found = gateway.run("noisy")
    assert found["phase"] == "completed", found["reason"]
    rows = [row for row in gateway.admin.get("/routes/noisy/diffs", params={"limit": 200}).json() if row["noise"]]
    assert rows, "copies to the same version differed as well"


def test_truth_without_a_prediction_does_no_harm(gateway: Gateway) -> None:
    """Feedback for a request that nobody made is waited for, and says so."""
    body = {"route": "better", "truths": [{"request_id": "nobody", "label": 1}]}
    assert gateway.admin.post("/feedback", json=body).json() == {"joined": 0, "early": 1, "mismatch": 0}
