"""Real Tritons that are killed under load while another one lives."""

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Final

from loadtest.resilience import gateway, processes
from loadtest.resilience.figures import Cell, Figure, Place, Settings, none_of
from loadtest.resilience.load import Load, Outcome, failures, quantile_ms, request
from loadtest.resilience.processes import Triton

_RATE: Final = 100.0
_WELL_S: Final = 1.0
_AFTER_S: Final = 3.0
_READY_S: Final = 60.0
_METHOD: Final = f"""\
Two real Tritons serve a model that takes 5 ms, {_RATE:g} idempotent requests a second. One of them is killed with
SIGKILL in mid-load, {_AFTER_S:g} s later another one is started at its address, and once that is ready it is the other
one's turn. All settings of the gateway are the defaults. A failed request is one without status 200."""


def kill(settings: Settings, place: Place) -> Figure:
    """Failed requests while Tritons are killed."""
    place.say("two Tritons start")
    tritons = place.stack.enter_context(processes.tritons(place.folder, 2))
    pools = [gateway.pool([triton.url for triton in tritons])]
    one = place.stack.enter_context(gateway.running(place.folder, "kill", pools, [gateway.route()]))
    rows: list[list[Cell]] = []
    every: list[Outcome] = []
    for number in range(settings.kills):
        victim = number % 2
        place.say(f"Triton {victim + 1} is killed")
        outcomes = asyncio.run(_episode(one.port, tritons[victim]))
        every += outcomes
        wrong = failures(outcomes)
        kinds = ", ".join(f"{kind}: {count}" for kind, count in wrong.items()) or "-"
        rows.append([number + 1, len(outcomes), sum(wrong.values()), kinds, quantile_ms(outcomes, 0.99)])
        if number + 1 < settings.kills:
            tritons[victim] = processes.triton_again(place.folder, tritons[victim])
            processes.wait_until(lambda: _both_serve(one), _READY_S, "the gateway uses both Tritons again")
    failed = sum(failures(every).values())
    columns = ["kill", "requests", "failed", "how", "p99 ms"]
    targets = [none_of("failed idempotent requests", failed, len(every))]
    return Figure("kill", "A Triton is killed under load", _METHOD, columns, rows, targets)


async def _episode(port: int, victim: Triton) -> Sequence[Outcome]:
    load = Load(port, request())
    sending = asyncio.get_running_loop().create_task(load.at_rate(_RATE, _WELL_S + _AFTER_S))
    await asyncio.sleep(_WELL_S)
    os.kill(victim.pid, signal.SIGKILL)
    await sending
    return load.outcomes


def _both_serve(one: gateway.Gateway) -> bool:
    return all(set(row["states"]) == {"up"} for row in one.ask("/backends"))
