"""A version that takes its time to load on a Triton that serves."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from loadtest.errors import BrokenRunError
from loadtest.resilience import gateway, processes
from loadtest.resilience.ask import fetch
from loadtest.resilience.figures import Cell, Figure, Place, Settings, none_of
from loadtest.resilience.load import Load, Outcome, failures, quantile_ms, request

_RATE: Final = 100.0
_WELL_S: Final = 0.5
_LONG_S: Final = 0.5
_WITHIN_S: Final = 60.0
_METHOD: Final = f"""\
A real Triton serves a model that takes 5 ms; {_RATE:g} requests a second come through the gateway. {_WELL_S:g} s later
version 2 of the model is loaded (`sluice models load`), which takes its time because it sleeps, and afterwards
unloaded. Two gateways stand before the same Triton and take turns: one knows its gRPC port, the other only its URL.
Counted are the requests sent from the beginning of a load to its end; *waited* are those whose answer took more than
{_LONG_S:g} s: over HTTP, the next one on each connection of the thread that Triton loads with. Targets are for gRPC;
HTTP is shown."""


def loads(settings: Settings, place: Place) -> Figure:
    """Requests that wait or fail while a version loads, ordered over gRPC and over HTTP."""
    place.say("a Triton starts")
    (triton,) = place.stack.enter_context(processes.tritons(place.folder, 1))
    processes.slow_version(place.folder, settings.seconds)
    arms = {"gRPC": triton.grpc_port, "HTTP": 0}
    route = {"name": "m", "variants": [{"name": "primary", "model": "m", "version": "1", "weight": 100}]}
    gateways = {}
    for arm, port in arms.items():
        pools: list[dict[str, Any]] = [{"name": "default", "backends": [{"url": triton.url, "grpc_port": port}]}]
        gateways[arm] = place.stack.enter_context(gateway.running(place.folder, arm, pools, [route]))
    seen: dict[str, list[Outcome]] = {arm: [] for arm in arms}
    took: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(settings.rounds):
        for arm in arms if number % 2 else reversed(arms):
            place.say(f"load {number + 1} of {settings.rounds} over {arm}")
            outcomes, seconds = asyncio.run(_episode(gateways[arm], settings.seconds, number))
            seen[arm] += outcomes
            took[arm].append(seconds)
    rows: list[list[Cell]] = []
    for arm in arms:
        wrong = failures(seen[arm])
        kinds = ", ".join(f"{kind}: {count}" for kind, count in wrong.items()) or "-"
        longest = max(outcome.latency_s for outcome in seen[arm])
        p50, p99 = quantile_ms(seen[arm], 0.5), quantile_ms(seen[arm], 0.99)
        count, mean = len(took[arm]), sum(took[arm]) / len(took[arm])
        counts = [len(seen[arm]), _waited(seen[arm]), sum(wrong.values())]
        rows.append([arm, count, mean, *counts, kinds, p50, p99, longest])
    columns = ["order over", "loads", "s each", "requests", "waited", "failed", "how", "p50 ms", "p99 ms", "longest s"]
    sent, failed = len(seen["gRPC"]), sum(failures(seen["gRPC"]).values())
    targets = [
        none_of(f"gRPC: requests that waited more than {_LONG_S:g} s", _waited(seen["gRPC"]), sent),
        none_of("gRPC: failed requests", failed, sent),
    ]
    return Figure("loads", "A version is loaded under load", _METHOD, columns, rows, targets)


async def _episode(one: gateway.Gateway, seconds: float, seed: int) -> tuple[Sequence[Outcome], float]:
    """Outcomes of the requests that were sent while the version loaded, and how long that took."""
    loop = asyncio.get_running_loop()
    load, stop = Load(one.port, request()), asyncio.Event()
    sending = loop.create_task(load.at_rate(_RATE, seconds + _WITHIN_S, seed=seed, stop=stop))
    await asyncio.sleep(_WELL_S)
    begun = loop.time()
    await asyncio.to_thread(_order, one, "load")
    ended = loop.time()
    stop.set()
    await sending
    await asyncio.to_thread(_order, one, "unload")
    return [outcome for outcome in load.outcomes if begun <= outcome.at <= ended], ended - begun


def _order(one: gateway.Gateway, verb: str) -> None:
    until = time.monotonic() + _WITHIN_S
    while True:
        status, body = fetch(f"{one.admin}/api/v1/models/m/{verb}?version=2", "POST", _WITHIN_S)
        if status == 200:
            return
        if time.monotonic() > until:
            raise BrokenRunError(f"{verb} of version 2 answers {status or 'nothing'} {body[:200]!r}")
        time.sleep(0.1)


def _waited(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.latency_s > _LONG_S for outcome in outcomes)
