"""Ten times more requests than a backend can take: what is still served."""

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

from loadtest.objectives import Judgement
from loadtest.resilience import gateway, processes
from loadtest.resilience.figures import Cell, Figure, Place, Settings, at_least
from loadtest.resilience.load import OK, Outcome, quantile_ms, visit

_SLOTS: Final = 6
_SERVICE_MS: Final = 20.0
_CAPACITY: Final = _SLOTS / _SERVICE_MS * 1e3
_LOADS: Final = (0.9, 1.5, 10.0)
_OVER: Final = _LOADS[-1]
_SETTLE_S: Final = 0.5
_USEFUL_S: Final = 2.0
_METHOD: Final = f"""\
The backend works on {_SLOTS} requests at once for {_SERVICE_MS:g} ms each, {_CAPACITY:g} a second, and lets all others
wait without bound, as Triton does. Requests come at {", ".join(f"{load:g}" for load in _LOADS)} times that rate
whatever was answered before, each kind of load in turn. Goodput is answers with status 200 within {_USEFUL_S:g} s of
their request, per second, after the first {_SETTLE_S:g} s; its peak is the best of the two smaller loads.

- *fixed limit*: the route lets twice as many requests in as the backend has slots; the queue is the default one.
- *adaptive limit*: the limit follows latency (`adaptive: {{}}`), nothing else is set.
- *no limit*: the defaults, for which the pool lets 1,024 requests through; shown, not judged.

What a refusal costs is measured where it can be compared, beside other proxies: [overhead.md](overhead.md)."""


def overload(settings: Settings, place: Place) -> Figure:
    """Goodput and latency at ten times the capacity."""
    seconds = settings.seconds + _SETTLE_S
    kinds: dict[str, dict[str, Any]] = {
        "fixed limit": {"max_in_flight": 2 * _SLOTS},
        "adaptive limit": {"adaptive": {}},
        "no limit": {},
    }
    rows: list[list[Cell]] = []
    targets: list[Judgement] = []
    for kind, limits in kinds.items():
        seen: dict[float, list[Sequence[Outcome]]] = {}
        with ExitStack() as stack:
            backend = stack.enter_context(processes.backend(slots=_SLOTS, service_ms=_SERVICE_MS))
            pools, routes = [gateway.pool([backend.url])], [gateway.route(**limits)]
            one = stack.enter_context(gateway.running(place.folder, kind.replace(" ", "-"), pools, routes))
            for number in range(max(2, settings.rounds // 4)):
                for load in _LOADS:
                    place.say(f"{kind}, {load:g} times the capacity")
                    seen.setdefault(load, []).append(visit(one.port, load * _CAPACITY, seconds, seed=number))
        good = {load: median(goodput(outcomes, seconds) for outcomes in seen[load]) for load in _LOADS}
        rows += [_row(kind, load, good[load], seen[load]) for load in _LOADS]
        if kind != "no limit":
            peak = max(good[load] for load in _LOADS if load < _OVER)
            share = good[_OVER] / peak if peak else None
            targets.append(at_least(f"{kind}: goodput at {_OVER:g} times the capacity over its peak", share, 0.85))
    columns = ["limit", "load", "answered 200/s", "p50 ms", "p99 ms", "refused", "other failures"]
    return Figure("overload", "Ten times more requests than can be served", _METHOD, columns, rows, targets)


def goodput(outcomes: Sequence[Outcome], seconds: float) -> float:
    """Useful answers per second that ended after the start has settled and before the load stopped."""
    if not outcomes:
        return 0.0
    begun = min(o.at for o in outcomes)
    useful = [o for o in outcomes if o.kind == OK and o.latency_s <= _USEFUL_S]
    counted = sum(_SETTLE_S <= o.at + o.latency_s - begun < seconds for o in useful)
    return counted / (seconds - _SETTLE_S)


def _row(kind: str, load: float, good: float, visits: Sequence[Sequence[Outcome]]) -> list[Cell]:
    every = [o for outcomes in visits for o in outcomes]
    refused = sum(o.kind in {"503", "429"} for o in every)
    other = sum(o.kind not in {OK, "503", "429"} for o in every)
    return [kind, f"{load:g}", good, quantile_ms(every, 0.5), quantile_ms(every, 0.99), refused, other]
