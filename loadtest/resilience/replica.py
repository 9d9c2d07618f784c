"""One of several replicas fails or freezes: how many requests that costs, and when the gateway has noticed."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from loadtest.objectives import Judgement
from loadtest.resilience import gateway, processes
from loadtest.resilience.backend import Mode
from loadtest.resilience.figures import Cell, Figure, Place, Settings, at_most
from loadtest.resilience.gateway import Gateway
from loadtest.resilience.load import OK, Load, Outcome, failures, request
from loadtest.resilience.processes import Backend

_REPLICAS: Final = 4
_RATE: Final = 200.0
_SLOTS: Final = 16
_SERVICE_MS: Final = 5.0
_TIMEOUT_S: Final = 2.0
_EJECTION_S: Final = 2.0
_WELL_S: Final = 1.5
_BROKEN_S: Final = 6.0
_BACK_WITHIN_S: Final = 12.0
_POLL_S: Final = 0.05
_METHOD: Final = f"""\
{_REPLICAS} backends, {_RATE:g} requests a second, each with a deadline of {_TIMEOUT_S:g} s. After {_WELL_S:g} s one
backend answers 500 to everything, or its process is stopped (SIGSTOP); {_BROKEN_S:g} s later it is well again
(SIGCONT). Settings are the defaults, but an ejection lasts {_EJECTION_S:g} s at first instead of 30 s, so that the
return is seen; probes ask every second. *Noticed* is when the admin API no longer shows the backend as up, *last
failure* when the last failed request was sent, both counted from the fault, *back* when the backend has answered a
request again, counted from the moment it was well. A failed request is one without status 200; the gateway does not
retry a 500, because the model may have run. A replica that still fails when its ejection ends costs a few requests
again, and is out for longer."""


def replica(settings: Settings, place: Place, faults: Sequence[str] = ("answers 500", "SIGSTOP")) -> Figure:
    """A replica that fails, and one that is frozen."""
    rows: list[list[Cell]] = []
    targets: list[Judgement] = []
    for fault in faults:
        with ExitStack() as stack:
            backends = [
                stack.enter_context(processes.backend(name=f"r{n}", slots=_SLOTS, service_ms=_SERVICE_MS))
                for n in range(_REPLICAS)
            ]
            pools = [gateway.pool([b.url for b in backends], ejection={"base_s": _EJECTION_S}, slow_start_s=0)]
            name = f"replica-{fault.split(maxsplit=1)[0]}"
            one = stack.enter_context(gateway.running(place.folder, name, pools, [gateway.route(timeout_s=_TIMEOUT_S)]))
            place.say(f"one of {_REPLICAS} replicas: {fault}")
            seen = asyncio.run(_Episode(one, backends[0], fault).run())
        times = [seen.noticed_s, seen.last_failure_s, seen.back_s]
        rows.append([fault, len(seen.outcomes), seen.failed, seen.kinds, *times])
        targets.append(at_most(f"{fault}: seconds until it is noticed", seen.noticed_s, 5.0))
        targets.append(at_most(f"{fault}: seconds until it serves again", seen.back_s, _BACK_WITHIN_S))
    columns = ["fault", "requests", "failed", "how", "noticed after s", "last failure sent after s", "back after s"]
    return Figure("replica", f"One of {_REPLICAS} replicas breaks", _METHOD, columns, rows, targets)


class _Episode:
    """One fault from its beginning to the return.

    Attributes:
        outcomes: of all requests.
        noticed_s, last_failure_s: seconds from the fault; None if it did not come to that.
        back_s: seconds from the repair.
    """

    def __init__(self, one: Gateway, victim: Backend, fault: str) -> None:
        self._one = one
        self._victim = victim
        self._fault = fault
        self._broken_at = self._well_at = 0.0
        self.outcomes: Sequence[Outcome] = []
        self.noticed_s: float | None = None

    async def run(self) -> "_Episode":
        """Takes its course."""
        loop = asyncio.get_running_loop()
        load = Load(self._one.port, request(), timeout_s=_TIMEOUT_S + 3)
        stop = asyncio.Event()
        sending = loop.create_task(load.at_rate(_RATE, _WELL_S + _BROKEN_S + _BACK_WITHIN_S + 5, stop=stop))
        await asyncio.sleep(_WELL_S)
        self._break()
        self._broken_at = loop.time()
        while (now := loop.time()) < self._broken_at + _BROKEN_S:
            if self.noticed_s is None and not await asyncio.to_thread(self._up):
                self.noticed_s = now - self._broken_at
            await asyncio.sleep(_POLL_S)
        self._mend()
        self._well_at = now
        while now < self._well_at + _BACK_WITHIN_S and self._back(load.outcomes) is None:
            await asyncio.sleep(_POLL_S)
            now = loop.time()
        await asyncio.sleep(0.5)
        stop.set()
        await sending
        self.outcomes = load.outcomes
        return self

    def _break(self) -> None:
        if self._fault == "SIGSTOP":
            self._victim.signal(signal.SIGSTOP)
        else:
            self._victim.become(Mode.FAIL)

    def _mend(self) -> None:
        if self._fault == "SIGSTOP":
            self._victim.signal(signal.SIGCONT)
        else:
            self._victim.become(Mode.SERVE)

    def _up(self) -> bool:
        rows: list[dict[str, Any]] = self._one.ask("/backends")
        return all(set(row["states"]) <= {"up"} for row in rows)

    def _back(self, outcomes: Sequence[Outcome]) -> float | None:
        ends = (o.at + o.latency_s for o in outcomes if o.by == "r0" and o.kind == OK and o.at > self._well_at)
        return min((end - self._well_at for end in ends), default=None)

    @property
    def back_s(self) -> float | None:
        """Seconds from the repair to its next answer."""
        return self._back(self.outcomes)

    @property
    def _bad(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.kind != OK]

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return len(self._bad)

    @property
    def kinds(self) -> str:
        """How they failed."""
        return ", ".join(f"{kind}: {count}" for kind, count in failures(self.outcomes).items()) or "-"

    @property
    def last_failure_s(self) -> float | None:
        """When the last one that failed was sent."""
        return max((o.at - self._broken_at for o in self._bad), default=None)
