"""The demo's rollouts: a better version gets all traffic, a skewed one without any error and a raising one do not."""

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import yaml

from gateway.demo import commands, judge
from gateway.demo.digits import INPUT, LABEL, MODEL, Digits, held_out
from gateway.demo.scene import Scene

BETTER, SKEWED, RAISING = "digits-better", "digits-skewed", "digits-raising"
OLD, NEW = "stable", "candidate"
_CLIENTS = 4
_TRUTHS = 50
_PAUSE_S = 0.004
_WAIT_S = 20.0
_MOST_REQUESTS = 50
_MOST_SWITCH_S = 1.0
# Short steps and wide margins, because a demo has seconds and a few requests; a service leaves the defaults.
_ERRORS = {"tolerance_ratio": 1.0, "margin_ratio": 4.0}
_ACCURACY = {"min_samples": 30, "margin_drop": 0.1}
_DRIFT = {"output": LABEL, "kind": "label", "sample": 100, "min_samples": 100}
Seen = Counter[tuple[str, int]]
"""How often clients got which status from which variant."""
_QUICK = {"latency": None, "guardrails": None, "errors": _ERRORS, "accuracy": _ACCURACY}


def _steps(min_time_s: float) -> list[dict[str, Any]]:
    return [{"weight": weight, "min_time_s": min_time_s, "min_samples": 30, "slack": 10} for weight in (20, 50)]


def _route(name: str, version: str, rollout: dict[str, Any]) -> dict[str, Any]:
    variants = [
        {"name": OLD, "model": MODEL, "version": "1", "weight": 100},
        {"name": NEW, "model": MODEL, "version": version},
    ]
    return {"name": name, "variants": variants, "rollout": rollout, "predictions": {"output": LABEL, "kind": "label"}}


def roll_out(scene: Scene) -> None:
    """Rolls version 2 out in steps, and version 3 until it is caught, both under traffic with ground truth.

    Version 4 has its route from now on, although it is yet to be exported: a file that is applied once more after a
    promotion would take it back.
    """
    routes = scene.directory / "routes.yaml"
    served: dict[str, Any] = yaml.safe_load(routes.read_text())
    better = {"steps": _steps(0.5), "gates": _QUICK, "rollback_window_s": 1}
    skewed = {"steps": _steps(3600), "gates": {**_QUICK, "drift": _DRIFT}}
    served["routes"] += [_route(BETTER, "2", better), _route(SKEWED, "3", skewed), _route(RAISING, "4", {})]
    routes.write_text(yaml.safe_dump(served))
    _command(scene, "apply", str(routes), "--why", "rollouts of the demo")
    scene.results["rollouts"] = {}
    for done, (route, phase) in enumerate(((BETTER, "completed"), (SKEWED, "aborted")), 1):
        seen = _run(scene, route, phase)
        scene.checks.append(judge.equal(f"{route}: answers other than 200", _failed(seen, OLD) + _failed(seen, NEW), 0))
        scene.progress(done, 2)


def take_back(scene: Scene) -> None:
    """Exports version 4 past every check, and rolls it out under the default policy.

    Its samples have no faint pixels, live digits do: what raises is an input that no check has seen.
    """
    arguments = ["export", "export.zoo.digits:v4", "--repo", str(scene.repository), "--name", MODEL, "--version", "4"]
    checked = ["--serve-check", scene.urls["triton"], "-o", "json"]
    exported = commands.run([*arguments, *checked], log=scene.log("export-4"), deadline=scene.deadline)
    statuses = {step["step"]: step["status"] for step in exported["steps"]}
    passed = {name: statuses[name] for name in ("parity", "serve-check")}
    seen = _run(scene, RAISING, "aborted")
    url = f"{scene.urls['admin']}/api/v1/rollouts/{RAISING}/decisions"
    decisions = httpx.get(url, timeout=_WAIT_S, trust_env=False).raise_for_status().json()
    requests, errors, switch_s = _asked(seen, NEW), _failed(seen, NEW), judge.switch_s(decisions)
    scene.results["rollouts"][RAISING] |= {
        "export_checks": passed,
        "candidate_requests": requests,
        "candidate_errors": errors,
        "verdict_to_last_switch_s": switch_s,
    }
    scene.checks += [
        judge.equal("version 4 passes its export's checks", passed, dict.fromkeys(passed, "ok")),
        judge.at_most(f"{RAISING}: requests that met the candidate", requests, _MOST_REQUESTS),
        judge.Check(f"{RAISING}: errors among them", errors > 0, str(errors)),
        judge.at_most(f"{RAISING}: seconds from the verdict to the last worker's switch", switch_s, _MOST_SWITCH_S),
        judge.equal(f"{RAISING}: answers of the old version other than 200", _failed(seen, OLD), 0),
    ]


def _asked(seen: Seen, variant: str) -> int:
    return sum(count for (name, _), count in seen.items() if name == variant)


def _failed(seen: Seen, variant: str) -> int:
    return _asked(seen, variant) - seen[variant, 200]


def _run(scene: Scene, route: str, phase: str) -> Seen:
    """Rolls out under traffic until it is over, which should be in that phase; returns what the clients saw."""
    with _traffic(scene, route) as seen:
        _command(scene, "rollout", "start", route, "--why", "demo")
        shown = _until_final(scene, route)
    statuses: Counter[int] = Counter()
    for (_, status), count in seen.items():
        statuses[status] += count
    scene.results["rollouts"][route] = {
        "phase": shown["phase"],
        "reason": shown["reason"],
        "statuses": dict(statuses),
    }
    scene.checks.append(judge.equal(f"{route} ended as", shown["phase"], phase))
    return seen


def _command(scene: Scene, *arguments: str) -> Any:
    where = ["--admin-url", scene.urls["admin"], "-o", "json"]
    return commands.run([*arguments, *where], log=scene.log("rollout"), deadline=scene.deadline)


def _until_final(scene: Scene, route: str) -> dict[str, Any]:
    stopped = threading.Event()
    while True:
        url = f"{scene.urls['admin']}/api/v1/rollouts/{route}"
        answer = httpx.get(url, timeout=_WAIT_S, trust_env=False)
        shown: dict[str, Any] = answer.raise_for_status().json()
        if shown["final"]:
            return shown
        scene.deadline.left(f"the rollout of {route}")
        stopped.wait(0.1)


@contextmanager
def _traffic(scene: Scene, route: str) -> Iterator[Seen]:
    """Clients that ask with real digits and post the truth for each answer; what they have seen so far."""
    stop, digits = threading.Event(), held_out()
    seen: Seen = Counter()
    failed: list[Exception] = []

    def client(seed: int) -> None:
        try:
            _ask(scene, route, digits, seed, stop, seen)
        except (OSError, http.client.HTTPException, httpx.HTTPError) as error:
            failed.append(error)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    scene.checks.append(judge.equal(f"{route}: clients that failed", [str(error) for error in failed], []))


def _ask(scene: Scene, route: str, digits: Digits, seed: int, stop: threading.Event, seen: Seen) -> None:
    connection = http.client.HTTPConnection(scene.urls["gateway"].removeprefix("http://"), timeout=_WAIT_S)
    truths: list[dict[str, Any]] = []
    at = seed
    try:
        while not stop.is_set():
            at = (at + 7) % len(digits.labels)
            tensor = {"name": INPUT, "datatype": "FP32", "shape": [1, 64], "data": digits.pixels[at].tolist()}
            connection.request("POST", f"/v2/models/{route}/infer", json.dumps({"inputs": [tensor]}))
            answer = connection.getresponse()
            answer.read()
            seen[answer.headers["x-sluice-variant"], answer.status] += 1
            truths.append({"request_id": answer.headers["x-request-id"], "label": int(digits.labels[at])})
            if len(truths) >= _TRUTHS:
                url = f"{scene.urls['admin']}/api/v1/feedback"
                httpx.post(url, json={"route": route, "truths": truths}, timeout=_WAIT_S, trust_env=False)
                truths = []
            stop.wait(_PAUSE_S)
    finally:
        connection.close()
