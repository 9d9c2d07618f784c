"""A shadow that never answers, and one whose answers have no end: what the primary's clients notice."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from loadtest.objectives import Judgement
from loadtest.resilience import gateway, processes
from loadtest.resilience.backend import Mode
from loadtest.resilience.crossover import Crossed, cross
from loadtest.resilience.figures import (
    Cell,
    Figure,
    Place,
    Settings,
    at_most,
    between,
    none_of,
    ratio_at_most,
)
from loadtest.resilience.gateway import Gateway
from loadtest.resilience.load import Outcome, failures, quantile_ms

_RATE: Final = 250.0
_SLOTS: Final = 64
_SERVICE_MS: Final = 5.0
_KINDS: Final[dict[str, Mode | None]] = {"none": None, "hung": Mode.HANG, "1 GB": Mode.HUGE}
_ROUTES: Final = ("copied", "plain")
_BLOCKS: Final = 8  # times the rounds
_GROWTH_MIB: Final = 64.0
_METHOD: Final = f"""\
Two gateways with the same settings stand before the same backend, which takes {_SERVICE_MS:g} ms. Each has two routes:
one copies every request to a shadow, the other copies nothing. Both gateways are loaded at the same moments with
{_RATE:g} requests a second each, one of them by the route with the shadow and the other by the route without, then the
other way round: one block. p99 with the shadow is compared with p99 without it block by block, so that neither what
else the machine does nor what makes one process slower than its twin is taken for the shadow's doing. *hung* accepts
every copy and never answers, *1 GB* answers each with 1 GB, announced in turn by Content-Length and by chunks; with
*none* no route has a shadow, which shows what the method sees where there is nothing. A target holds where the whole
interval lies below it. Memory is the most that a worker ever had."""


def shadow(settings: Settings, place: Place) -> Figure:
    """p99 of the primary and memory of the worker beside broken shadows."""
    rows: list[list[Cell]] = []
    targets: list[Judgement] = []
    plain_mib = 0.0
    for kind, mode in _KINDS.items():
        with ExitStack() as stack:
            pair = _pair(place, stack, kind, mode)
            seen = cross(
                pair, _ROUTES, rate=_RATE, seconds=settings.seconds / 2,
                blocks=settings.rounds * (_BLOCKS if mode else _BLOCKS // 2),
                say=partial(_say, place, kind),
            )  # fmt: skip
            peak = max(one.peak_mib() for one in pair)
        rows += _rows(kind, seen, peak)
        if mode is None:
            plain_mib = peak
            continue
        wrong = [sum(failures(outcomes).values()) for outcomes in seen.with_it]
        targets.append(ratio_at_most(f"shadow {kind}: p99 over p99 without", seen.ratio, 1.05))
        targets.append(at_most(f"shadow {kind}: MiB of memory more than without", peak - plain_mib, _GROWTH_MIB))
        count = sum(len(outcomes) for outcomes in seen.with_it)
        targets.append(none_of(f"shadow {kind}: failed requests", sum(wrong), count))
    columns = ["shadow", "requests", "p50 ms", "p99 ms", "p99 over without (90 % interval)", "failed",
               "worker's peak MiB"]  # fmt: skip
    return Figure("shadow", "Shadows that hang or never end", _METHOD, columns, rows, targets)


def _say(place: Place, kind: str, what: str) -> None:
    place.say(f"shadow: {kind}, {what}")


def _pair(place: Place, stack: ExitStack, kind: str, mode: Mode | None) -> tuple[Gateway, Gateway]:
    """Two gateways alike, each with a route that has the shadow and one that has none."""
    enter = stack.enter_context
    pools = [gateway.pool([enter(processes.backend(slots=_SLOTS, service_ms=_SERVICE_MS)).url])]
    routes: list[dict[str, Any]] = [gateway.route() | {"name": name} for name in _ROUTES]
    if mode is not None:
        pools.append(gateway.pool([enter(processes.backend(mode=mode)).url], "shadow"))
        routes[0]["variants"].append({"name": "copy", "model": "m", "pool": "shadow", "weight": 0})
        routes[0]["shadows"] = [{"variant": "copy", "sample": 100}]
    name = f"shadow-{kind.replace(' ', '-')}"
    return (
        enter(gateway.running(place.folder, f"{name}-1", pools, routes)),
        enter(gateway.running(place.folder, f"{name}-2", pools, routes)),
    )


def _rows(kind: str, seen: Crossed, peak: float) -> list[list[Cell]]:
    arms: dict[str, Sequence[Sequence[Outcome]]] = {f"{kind}, copied": seen.with_it, f"{kind}, plain": seen.without}
    rows: list[list[Cell]] = []
    for arm, visits in arms.items():
        every = [o for outcomes in visits for o in outcomes]
        over = between(seen.ratio) if visits is seen.with_it else None
        failed = sum(failures(every).values())
        rows.append([arm, len(every), quantile_ms(every, 0.5), quantile_ms(every, 0.99), over, failed, peak])
    return rows
