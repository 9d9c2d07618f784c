"""Thousands of slow clients, or idle ones: what the others notice."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

from loadtest import servers
from loadtest.objectives import Judgement
from loadtest.resilience import gateway, processes
from loadtest.resilience.crossover import together
from loadtest.resilience.crowd import Kind, affordable
from loadtest.resilience.figures import Cell, Figure, Place, Settings, between, none_of, paired, ratio_at_most
from loadtest.resilience.gateway import Gateway
from loadtest.resilience.load import Outcome, failures, quantile_ms, request, visit

_RATE: Final = 200.0
_SLOTS: Final = 16
_SERVICE_MS: Final = 5.0
_IDLE_PROCESSES: Final = 2
_ACCEPT_S: Final = 60.0
_COMMON: Final = f"""\
Two gateways with the same settings stand before the same backend, which takes {_SERVICE_MS:g} ms; one of them has the
crowd. Both are loaded at the same moments with {_RATE:g} requests a second each, and p99 is compared round by round, so
that what else the machine does meets both alike; the crowd's own process is a part of that."""
_SLOW: Final = f"""\
{_COMMON} A third of the slow clients drips a head, a third a body of 60 kB, a third a body of 600 kB, each one byte
every two seconds; whoever is shut out comes back at once. All settings of the gateways are the defaults."""
_IDLE: Final = f"""\
{_COMMON} The idle clients connect and send nothing. The gateways have two workers each and keep idle connections for
ten minutes instead of one. Memory is what the workers' resident size grew by; the kernel's own is not in it."""


def slow_clients(settings: Settings, place: Place) -> Figure:
    """p99 of healthy clients beside a crowd of slow ones."""
    seen = _beside(settings, place, Kind.SLOW, settings.slow_clients, processes_of_crowd=1)
    targets = [ratio_at_most(f"p99 with {seen.held:,} slow clients over p99 without", seen.ratio, 1.2), seen.failed]
    return Figure("slow-clients", "Slow clients", _SLOW, _COLUMNS, seen.rows, targets, seen.notes)


def idle_clients(settings: Settings, place: Place) -> Figure:
    """Memory for each of a crowd of idle clients, and p99 of the active ones."""
    seen = _beside(settings, place, Kind.IDLE, settings.idle_clients, processes_of_crowd=_IDLE_PROCESSES,
                   workers=2, limits={"idle_timeout_s": 600})  # fmt: skip
    notes = [*seen.notes, f"{seen.grown_mib * 1024 / seen.held:.1f} KiB of the workers' memory per idle connection"]
    return Figure("idle-clients", "Idle keep-alive clients", _IDLE, _COLUMNS, seen.rows, [seen.failed], notes)


_COLUMNS: Final = ["clients beside", "requests", "p50 ms", "p99 ms", "p99 over without (90 % interval)", "failed",
                   "workers' CPU s/s", "workers' memory MiB"]  # fmt: skip


class _Seen:
    """What both figures need of a run."""

    def __init__(self, wanted: int, held: int, grown_mib: float) -> None:
        self.held = held
        self.grown_mib = grown_mib
        self.rows: list[list[Cell]] = []
        self.notes: list[str] = []
        if held < wanted:
            self.notes.append(f"{wanted:,} connections were asked for, the descriptor limit allows {held:,}")

    def judge(self, visits: dict[str, list[Sequence[Outcome]]], load: dict[str, tuple[float, float]]) -> None:
        """Takes in the visits, and CPU per second and memory of each arm."""
        p99 = {arm: [quantile_ms(outcomes, 0.99) for outcomes in found] for arm, found in visits.items()}
        self.ratio = paired(p99["with"], p99["without"])
        bad = 0
        for arm, found in visits.items():
            every = [o for outcomes in found for o in outcomes]
            bad += (wrong := sum(failures(every).values()))
            known = [value for value in p99[arm] if value is not None]
            over = between(self.ratio)
            cpu, memory = load[arm]
            self.rows.append([
                f"{self.held:,}" if arm == "with" else "none", len(every), quantile_ms(every, 0.5),
                median(known) if known else None, over if arm == "with" else None, wrong, cpu, memory,
            ])  # fmt: skip
        count = sum(len(outcomes) for found in visits.values() for outcomes in found)
        self.failed: Judgement = none_of("failed requests of healthy clients", bad, count)


def _beside(settings: Settings, place: Place, kind: Kind, wanted: int, *, processes_of_crowd: int,
            **more: Any) -> _Seen:  # fmt: skip
    share = affordable(-(-wanted // processes_of_crowd))
    with ExitStack() as stack:
        backend = stack.enter_context(processes.backend(slots=_SLOTS, service_ms=_SERVICE_MS))
        pools, routes = [gateway.pool([backend.url])], [gateway.route()]
        arms = {
            arm: stack.enter_context(gateway.running(place.folder, f"{kind}-{arm}", pools, routes, **more))
            for arm in ("without", "with")
        }
        before = _rested(arms["with"])
        place.say(f"{share * processes_of_crowd:,} {kind} clients connect")
        held = 0
        for number in range(processes_of_crowd):
            options = ["--port", str(arms["with"].port), "--clients", str(share), "--kind", kind]
            crowd = stack.enter_context(processes.child("crowd", *options, "--source", f"127.0.0.{2 + number}"))
            held += int(servers.first_line(crowd, "the crowd"))
        if kind is Kind.IDLE:
            what = f"the gateway has accepted {held:,} idle clients"
            processes.wait_until(lambda: _connections(arms["with"]) >= held, _ACCEPT_S, what)
        seen = _Seen(wanted, held, _rested(arms["with"]) - before)
        visits: dict[str, list[Sequence[Outcome]]] = {arm: [] for arm in arms}
        cpu = dict.fromkeys(arms, 0.0)
        rounds = 2 * settings.rounds
        for number in range(rounds + 1):
            place.say(f"healthy clients beside {held:,} {kind} ones, round {number} of {rounds}")
            spent = {arm: one.worker_cpu_s() for arm, one in arms.items()}
            ports = [one.port for one in arms.values()]
            seen_now = asyncio.run(together(ports, [request()] * len(ports), _RATE, settings.seconds, number))
            if number:  # the first round warms up
                for arm, outcomes in zip(arms, seen_now, strict=True):
                    visits[arm].append(outcomes)
                    cpu[arm] += arms[arm].worker_cpu_s() - spent[arm]
        time = settings.seconds * rounds
        seen.judge(visits, {arm: (cpu[arm] / time, one.rss_mib()) for arm, one in arms.items()})
    return seen


def _connections(one: Gateway) -> int:
    return sum(row["connections"] for row in one.ask("/workers"))


def _rested(one: Gateway) -> float:
    """Memory after a first few requests have made what is made once."""
    visit(one.port, 50, 0.5)
    return one.rss_mib()
