"""Replacing workers and the whole gateway under load, and ending it: who is cut off, who is turned away."""

import asyncio
import http.client
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, Final

import yaml

from loadtest import servers
from loadtest.errors import BrokenRunError
from loadtest.objectives import Judgement
from loadtest.resilience import gateway, processes
from loadtest.resilience.ask import fetch
from loadtest.resilience.figures import Cell, Figure, Place, Settings, none_of
from loadtest.resilience.gateway import Gateway
from loadtest.resilience.load import Load, Outcome, failures, quantile_ms, request

_RATE: Final = 500.0
_SLOTS: Final = 32
_SERVICE_MS: Final = 5.0
_WORKERS: Final = 2
_UNREADY_S: Final = 2.0
_LOOK_S: Final = 0.1
_COMMAND_S: Final = 90.0
_MOST_S: Final = 200.0
_CUT: Final = ("reset", "closed", "refused")
_METHOD: Final = f"""\
{_RATE:g} requests a second on keep-alive connections, {_WORKERS} workers, a backend that takes {_SERVICE_MS:g} ms.
Under this load, one after another: the workers are replaced (`sluice restart --workers`), settings are changed and
taken in (`sluice reload`, which replaces the workers as well), all processes are replaced by what is installed (`sluice
restart`), and at last the gateway is told to end (SIGTERM) as a load balancer would see it: it says that it is not
ready, goes on serving for {_UNREADY_S:g} s (`limits.unready_s`), and the load stops when `/v2/health/ready` says so,
asked every {_LOOK_S:g} s. A client that gets `Connection: close` opens another connection; no request is tried again.

*Cut off* are requests that ended in a reset or without any answer, *turned away* connections that were refused."""

Action = Callable[[Gateway, int], Coroutine[Any, Any, None]]


def restarts(settings: Settings, place: Place) -> Figure:
    """Requests cut off or turned away while processes are replaced and ended."""
    rows: list[list[Cell]] = []
    targets: list[Judgement] = []
    with ExitStack() as stack:
        backend = stack.enter_context(processes.backend(slots=_SLOTS, service_ms=_SERVICE_MS))
        one = stack.enter_context(
            gateway.running(
                place.folder, "restarts", [gateway.pool([backend.url])], [gateway.route()],
                workers=_WORKERS, limits={"unready_s": _UNREADY_S},
            )
        )  # fmt: skip
        plans: list[tuple[str, Action]] = [
            ("workers replaced", _workers),
            ("settings taken in", _reload),
            ("everything replaced", _everything),
        ]
        times = settings.restarts
        for what, action in plans:
            place.say(f"{what}, {times} times")
            outcomes, grown = asyncio.run(_under_load(one, action, times))
            _report(rows, targets, f"{what}, {times} times", outcomes, grown)
        place.say("the gateway ends")
        outcomes = asyncio.run(_ending(one))
        _report(rows, targets, "told to end", outcomes, None)
        if one.process.wait(60):
            raise BrokenRunError(f"the gateway ended with status {one.process.returncode}")
    columns = ["what", "requests", "cut off", "turned away", "other failures", "p99 ms", "took s"]
    return Figure("restarts", "Restarts, upgrades and the end", _METHOD, columns, rows, targets)


def _report(
    rows: list[list[Cell]], targets: list[Judgement], what: str, outcomes: Sequence[Outcome], took_s: float | None
) -> None:
    kinds = Counter(failures(outcomes))
    cut, refused = kinds["reset"] + kinds["closed"], kinds["refused"]
    other = sum(count for kind, count in kinds.items() if kind not in _CUT)
    rows.append([what, len(outcomes), cut, refused, other, quantile_ms(outcomes, 0.99), took_s])
    how = ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
    targets.append(
        none_of(f"{what}: requests cut off, turned away or failed", cut + refused + other, len(outcomes), how)
    )


async def _under_load(one: Gateway, action: Action, times: int) -> tuple[Sequence[Outcome], float]:
    loop = asyncio.get_running_loop()
    load, stop = Load(one.port, request()), asyncio.Event()
    sending = loop.create_task(load.at_rate(_RATE, _MOST_S, stop=stop))
    begun = loop.time()
    try:
        for number in range(times):
            await action(one, number)
    finally:
        took = loop.time() - begun
        stop.set()
        await sending
    return load.outcomes, took


async def _command(one: Gateway, *arguments: str) -> None:
    command = [*arguments, "--admin-url", one.admin]
    await asyncio.to_thread(servers.call, *command, log=one.folder / "command.log", timeout_s=_COMMAND_S)


async def _workers(one: Gateway, number: int) -> None:
    await _command(one, "restart", "--workers")


async def _everything(one: Gateway, number: int) -> None:
    await _command(one, "restart")


async def _reload(one: Gateway, number: int) -> None:
    file = one.folder / "sluice.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings["limits"]["max_connections"] = 10_000 + number
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    await _command(one, "reload")


async def _ending(one: Gateway) -> Sequence[Outcome]:
    """Load until the gateway says that it is not ready, which it is told to be after a moment."""
    loop = asyncio.get_running_loop()
    load, stop = Load(one.port, request()), asyncio.Event()
    sending = loop.create_task(load.at_rate(_RATE, _MOST_S, stop=stop))
    await asyncio.sleep(1)
    one.process.send_signal(signal.SIGTERM)
    until = loop.time() + _UNREADY_S + 5
    now = loop.time()
    while await asyncio.to_thread(_ready, one.port) and now < until:
        await asyncio.sleep(_LOOK_S)
        now = loop.time()
    stop.set()
    await sending
    return load.outcomes


def _ready(port: int) -> bool:
    return fetch(f"http://127.0.0.1:{port}/v2/health/ready")[0] == http.client.OK
