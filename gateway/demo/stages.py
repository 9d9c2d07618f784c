"""The demo's stages, in order. Each runs real commands or sends real requests, and adds to what is known.

A further stage is one more function and one more line in `STAGES`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import yaml

from gateway.demo import commands, counters, judge, traffic
from gateway.demo.digits import MODEL, held_out
from gateway.demo.rollouts import roll_out, take_back
from gateway.demo.scene import Scene
from gateway.errors import ResourceError

ROUTE = "digits"
WEIGHTS = {"v1": 90.0, "v2": 10.0}
SHADOW = "v3"
SHADOW_PERCENT = 50.0
VERSIONS = {"v1": "1", "v2": "2", "v3": "3"}
_CONCURRENCY = 8
_SEED = 20


def export_models(scene: Scene) -> None:
    """Trains and exports three versions of the digits classifier, and reads what their manifests promise."""
    arguments = ["export", "samples", "--repo", str(scene.repository), "--only", MODEL, "-o", "json"]
    commands.run(arguments, log=scene.log("export"), deadline=scene.deadline)
    promised = {}
    for variant, version in VERSIONS.items():
        manifest = scene.repository / MODEL / version / "manifest.json"
        try:
            promised[variant] = json.loads(manifest.read_text())["metrics"]["held_out_accuracy"]
        except (OSError, ValueError, KeyError) as error:
            raise ResourceError(f"{manifest} has no metrics.held_out_accuracy: {error}") from error
    scene.results["manifest_accuracy"] = promised


def start_triton(scene: Scene) -> None:
    """Serves the repository with a real Triton."""
    free = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    log = ["--log-file", str(scene.log("tritonserver"))]
    facts = scene.serve("triton", "--repository", str(scene.repository), *free, *log, "-o", "json")
    scene.urls |= {"triton": facts["http"], "triton_grpc": facts["grpc"], "triton_metrics": facts["metrics"]}


def start_gateway(scene: Scene) -> None:
    """Starts the gateway with two workers in front of it."""
    pool = f"{scene.urls['triton']},grpc_port={scene.urls['triton_grpc'].rpartition(':')[2]}"
    addresses = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--pool", pool]
    state = ["--state-dir", str(scene.directory / "state")]
    facts = scene.serve("serve", "--workers", "2", *addresses, *state, "-o", "json")
    admin = facts["admin_url"]
    scene.urls |= {"gateway": facts["data_url"], "admin": admin, "metrics": f"{admin}/metrics", "api": f"{admin}/docs"}


def apply_route(scene: Scene) -> None:
    """Applies the route: version 1 at 90 %, version 2 at 10 %, version 3 in the shadow of half of it."""
    variants = [
        {"name": name, "model": MODEL, "version": version, "weight": WEIGHTS.get(name, 0.0)}
        for name, version in VERSIONS.items()
    ]
    shadows = [{"variant": SHADOW, "sample": SHADOW_PERCENT}]
    routes = scene.directory / "routes.yaml"
    routes.write_text(yaml.safe_dump({"routes": [{"name": ROUTE, "variants": variants, "shadows": shadows}]}))
    arguments = ["apply", str(routes), "--admin-url", scene.urls["admin"], "--why", "demo", "-o", "json"]
    outcome = commands.run(arguments, log=scene.log("apply"), deadline=scene.deadline)
    scene.results["generation"] = outcome["generation"]


def send_digits(scene: Scene) -> None:
    """Sends single digits through the split, and compares shares with weights and counts with counters."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        scene.progress(done, scene.requests)

    sent = traffic.drive(
        scene.urls["gateway"],
        ROUTE,
        held_out(),
        requests=scene.requests,
        concurrency=_CONCURRENCY,
        seed=_SEED,
        deadline=scene.deadline,
        progress=step,
    )
    names = {version: name for name, version in VERSIONS.items()}
    answered = {name: [a for a in sent.answers if names[a.version] == name] for name in WEIGHTS}
    variants = {}
    for name, answers in answered.items():
        seconds = [answer.seconds for answer in answers] or [float("nan")]
        variants[name] = {
            "weight_percent": WEIGHTS[name],
            "requests": len(answers),
            "share_percent": 100 * len(answers) / max(1, len(sent.answers)),
            "expected_requests": judge.bounds(scene.requests, WEIGHTS[name] / 100),
            "accuracy": sum(answer.correct for answer in answers) / max(1, len(answers)),
            "p50_ms": 1000 * judge.quantile(seconds, 0.5),
            "p99_ms": 1000 * judge.quantile(seconds, 0.99),
        }
        scene.checks.append(
            judge.within(f"share of {name}", len(answers), scene.requests, WEIGHTS[name] / 100),
        )
    scene.checks.append(judge.equal("failed requests", len(sent.errors), 0))
    scene.results["traffic"] = {
        "requests": scene.requests,
        "concurrency": _CONCURRENCY,
        "seconds": sent.seconds,
        "errors": sent.errors[:10],
        "variants": variants,
    }
    _compare_counters(scene, {name: len(answers) for name, answers in answered.items()})


def _compare_counters(scene: Scene, answered: dict[str, int]) -> None:
    admin, requests = scene.urls["admin"], "sluice_requests_total"
    found = counters.await_total(admin, requests, sum(answered.values()), scene.deadline, route=ROUTE)
    counted = {name: found.total(requests, route=ROUTE, variant=name, outcome="ok") for name in answered}
    scene.checks.append(judge.equal("the gateway counted what its clients saw", counted, answered))
    copies, dropped = "sluice_shadow_requests_total", "sluice_shadow_dropped_total"
    labels = {"route": ROUTE, "variant": SHADOW}
    # A copy may end after the request that it copies.
    found = counters.await_quiet(admin, (copies, dropped), scene.deadline, **labels)
    ended = {outcome: found.total(copies, **labels, outcome=outcome) for outcome in ("ok", "error", "timeout")}
    ended["dropped"] = found.total(dropped, **labels)
    total, failed = sum(ended.values()), ended["error"] + ended["timeout"]
    scene.checks.append(judge.within(f"copies for {SHADOW}", total, scene.requests, SHADOW_PERCENT / 100))
    scene.checks.append(judge.equal("failed copies", failed, 0))
    scene.results["shadow"] = {"variant": SHADOW, "sample_percent": SHADOW_PERCENT, "copies": total, "ended": ended}


def measure_accuracy(scene: Scene) -> None:
    """Asks each variant for all held-out digits, and Triton itself for some of them."""
    digits = held_out()
    gateway, triton = scene.urls["gateway"], scene.urls["triton"]
    measured = {}
    for done, (variant, version) in enumerate(VERSIONS.items(), 1):
        scene.deadline.left(f"the accuracy of {variant}")
        measured[variant] = traffic.accuracy(gateway, ROUTE, variant, digits)
        promised = scene.results["manifest_accuracy"][variant]
        scene.checks.append(judge.equal(f"accuracy of {variant} is its manifest's", measured[variant], promised))
        same = traffic.same_bits(gateway, ROUTE, variant, triton, MODEL, version, digits)
        text = "equal to the last bit" if same else "different"
        scene.checks.append(judge.Check(f"{variant} through the gateway and from Triton itself", same, text))
        scene.progress(done, len(VERSIONS))
    scene.results["held_out_accuracy"] = measured


@dataclass(frozen=True, slots=True)
class Stage:
    """A named part of the demo: what is shown while it runs, and what it does."""

    name: str
    title: str
    run: Callable[[Scene], None]


STAGES = (
    Stage("export", "train and export digits 1, 2 and 3", export_models),
    Stage("triton", "serve them with a real Triton", start_triton),
    Stage("gateway", "start the gateway", start_gateway),
    Stage("apply", "apply the route: 90 % v1, 10 % v2, v3 in shadow", apply_route),
    Stage("traffic", "send digits through the split", send_digits),
    Stage("accuracy", "ask each variant for all held-out digits", measure_accuracy),
    Stage("rollouts", "roll version 2 out, catch version 3", roll_out),
    Stage("raising", "export version 4, which raises errors, and take it back", take_back),
)
