"""A shadow that never answers, and one whose answers have no end: what the primary's clients notice."""

import random
from collections.abc import Sequence
from statistics import median
from typing import Final

from loadtest.objectives import Judgement
from loadtest.resilience import gateway, processes
from loadtest.resilience.backend import Mode
from loadtest.resilience.figures import Cell, Figure, Place, Settings, at_most, none_of, paired, ratio_at_most
from loadtest.resilience.load import Outcome, failures, quantile_ms, visit

_RATE: Final = 200.0
_SLOTS: Final = 16
_SERVICE_MS: Final = 5.0
_WITHOUT: Final = "none"
_TWIN: Final = "none, again"
_GROWTH_MIB: Final = 64.0
_METHOD: Final = f"""\
Four gateways stand before the same backend, which takes {_SERVICE_MS:g} ms: two without a shadow, one that copies
every request to a backend that accepts it and never answers, one that copies every request to a backend that answers
each with 1 GB, announced in turn by Content-Length and by chunks. A load of {_RATE:g} requests a second visits them in
turns, in another order each round; p99 is compared round by round with the first gateway's. The second gateway
without a shadow shows how far two equal ones are apart on this machine. Memory is the most that the worker ever had."""


def shadow(settings: Settings, place: Place) -> Figure:
    """p99 of the primary and memory of the worker beside broken shadows."""
    enter = place.stack.enter_context
    primary = enter(processes.backend(slots=_SLOTS, service_ms=_SERVICE_MS))
    shadows = {
        "hung": enter(processes.backend(mode=Mode.HANG)),
        "1 GB": enter(processes.backend(mode=Mode.HUGE)),
    }
    arms = {}
    for arm in (_WITHOUT, _TWIN, *shadows):
        pools, route = [gateway.pool([primary.url])], gateway.route()
        if arm in shadows:
            pools.append(gateway.pool([shadows[arm].url], "shadow"))
            route["variants"].append({"name": "copy", "model": "m", "pool": "shadow", "weight": 0})
            route["shadows"] = [{"variant": "copy", "sample": 100}]
        name = arm.replace(" ", "-").replace(",", "")
        arms[arm] = enter(gateway.running(place.folder, f"shadow-{name}", pools, [route]))
    visits: dict[str, list[Sequence[Outcome]]] = {arm: [] for arm in arms}
    cpu = dict.fromkeys(arms, 0.0)
    order = list(arms)
    chance = random.Random(0)
    for number in range(settings.rounds + 1):
        chance.shuffle(order)
        for arm in order:
            place.say(f"shadow: {arm}, round {number}")
            before = arms[arm].worker_cpu_s()
            outcomes = visit(arms[arm].port, _RATE, settings.seconds, seed=number)
            if number:  # the first round warms up
                visits[arm].append(outcomes)
                cpu[arm] += arms[arm].worker_cpu_s() - before
    p99 = {arm: [quantile_ms(outcomes, 0.99) for outcomes in found] for arm, found in visits.items()}
    ratios = {arm: paired(p99[arm], p99[_WITHOUT]) for arm in arms}
    peaks = {arm: arms[arm].peak_mib() for arm in arms}
    rows: list[list[Cell]] = []
    targets: list[Judgement] = []
    for arm in arms:
        every = [o for outcomes in visits[arm] for o in outcomes]
        known = [value for value in p99[arm] if value is not None]
        found = ratios[arm]
        over = f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})" if found and arm != _WITHOUT else None
        wrong = sum(failures(every).values())
        rows.append([arm, len(every), quantile_ms(every, 0.5), median(known) if known else None, over, wrong,
                     cpu[arm] * 1e6 / max(len(every), 1), peaks[arm]])  # fmt: skip
        if arm in shadows:
            targets.append(ratio_at_most(f"shadow {arm}: p99 over p99 without", found, 1.05))
            grown = peaks[arm] - peaks[_WITHOUT]
            targets.append(at_most(f"shadow {arm}: MiB of memory more than without", grown, _GROWTH_MIB))
            targets.append(none_of(f"shadow {arm}: failed requests", wrong, len(every)))
    columns = ["shadow", "requests", "p50 ms", "p99 ms", "p99 over without (90 % interval)", "failed",
               "worker's CPU us/request", "worker's peak MiB"]  # fmt: skip
    return Figure("shadow", "Shadows that hang or never end", _METHOD, columns, rows, targets)
