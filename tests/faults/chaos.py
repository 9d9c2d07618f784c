"""Everything that goes wrong, at once and at random, against a worker under load.

`python -m tests.faults.chaos --seconds 120 [--seed N]` runs the storm; `--aborts 100000` instead lets that many
requests be given up by their clients while others check that every answer is their own. It ends with 1 when an
invariant is broken:

- no answer is anybody else's;
- a request is only lost with the worker that held it, with the backend that was in the middle of its answer, or by a
  client that was just being let go;
- counters add up: every request that was taken has one outcome, every lease and every buffered byte is back;
- memory and descriptors return to where they were.
"""

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from gateway.config import Limits
from gateway.core.pool import Ejection, Pool, Probe
from gateway.core.route import Route, Shadow, Variant
from tests.wire.backend import Backend, Script, backends
from tests.wire.gateway import Gateway, pool, route, running, until
from tests.wire.load import Load, Tally

_POLITE, _RUDE = 16, 16
_LIMITS = Limits(linger_s=1.0, drain_s=10.0, max_held_bytes=1 << 20)
_RSS_GROWTH = 48 << 20
# Faults that come before an answer, so that a second attempt can cover them.
_FAULTS = (
    Script(cut=0, then="reset"),
    Script(cut=0, then="close"),
    Script(cut=30, then="reset"),
    Script(then="drop_next"),
    Script(status=503, body='{"error":"Server exiting"}'),
    Script(status=400, body='{"error":"Request for unknown model: \'m\' is not found"}'),
    Script(raw="HTTP/1.1 200 OK\r\n\r\n{}"),
    Script(read=10, cut=0, then="reset"),
)


@dataclass
class Report:
    """What a run did and saw."""

    events: Counter[str] = field(default_factory=Counter)
    polite: Tally = field(default_factory=Tally)
    rude: Tally = field(default_factory=Tally)
    faults: list[str] = field(default_factory=list)
    rss_growth: int = 0
    descriptor_growth: int = 0

    def check(self, holds: bool, what: str) -> None:
        """Notes a broken invariant."""
        if not holds:
            self.faults.append(what)


class _Storm:
    """The things that can happen; each leaves the world able to go on."""

    def __init__(self, gateway: Gateway, fleet: list[Backend], shadow: Backend, chance: random.Random) -> None:
        self.gateway, self.fleet, self.shadow, self.chance = gateway, fleet, shadow, chance
        self.events: Counter[str] = Counter()
        self._things: list[tuple[int, Callable[[], None]]] = [
            (10, self.new_table),
            (5, self.burst_of_tables),
            (6, self.kill_backend),
            (4, self.flap_backend),
            (8, self.faulty_backend),
            (4, self.slow_backend),
            (4, self.troubled_shadow),
            (2, self.restart_worker),
            (1, self.kill_worker),
            (2, self.stop_worker),
        ]

    def step(self) -> None:
        """One thing, by weight."""
        weights, things = zip(*self._things, strict=True)
        [thing] = self.chance.choices(things, weights)
        self.events[thing.__name__] += 1
        thing()

    def tables(self) -> tuple[tuple[Route, ...], tuple[Pool, ...]]:
        """Some valid table; at least two backends serve the route."""
        chosen = self.chance.sample(self.fleet, self.chance.choice((2, 3)))
        weight = float(self.chance.randrange(101))
        variants = (
            Variant(name="a", model="one", weight=weight),
            Variant(name="b", model="two", weight=100 - weight),
            Variant(name="s", model="shadow", weight=0.0, pool="shadow"),
        )
        shadows = (Shadow(variant="s", sample=20.0, timeout_s=0.5),) if self.chance.random() < 0.7 else ()
        fleets = (
            pool(
                *(backend.url for backend in chosen),
                probe=Probe(interval_s=0.1, timeout_s=0.5),
                ejection=Ejection(consecutive=5, base_s=0.2),
            ),
            pool(self.shadow.url, name="shadow"),
        )
        return (route(variants=variants, shadows=shadows, timeout_s=15.0, retries=3),), fleets

    def new_table(self) -> None:
        """Another table."""
        self.gateway.publish(*self.tables())

    def burst_of_tables(self) -> None:
        """A hundred tables a second."""
        for _ in range(20):
            self.gateway.publish(*self.tables(), wait=False)
            time.sleep(0.01)
        self.gateway.publish(*self.tables())

    def kill_backend(self) -> None:
        """One backend is gone for a while."""
        backend = self.chance.choice(self.fleet)
        backend.kill()
        time.sleep(self.chance.random() * 0.5)
        backend.listen()
        time.sleep(0.3)

    def flap_backend(self) -> None:
        """One backend comes and goes ten times a second."""
        backend = self.chance.choice(self.fleet)
        for _ in range(5):
            backend.kill()
            time.sleep(0.05)
            backend.listen()
            time.sleep(0.05)
        time.sleep(0.3)

    def faulty_backend(self) -> None:
        """One backend fails its next requests before it answers."""
        backend, fault = self.chance.choice(self.fleet), self.chance.choice(_FAULTS)
        backend.queue.extend([fault] * self.chance.randrange(1, 60))
        time.sleep(0.2)
        backend.queue.clear()

    def slow_backend(self) -> None:
        """One backend is slow."""
        backend = self.chance.choice(self.fleet)
        backend.script = Script(delay_s=0.05)
        time.sleep(0.3)
        backend.script = Script()

    def troubled_shadow(self) -> None:
        """The shadow hangs, floods or fails."""
        self.shadow.script = self.chance.choice((Script(cut=0, then="hang"), Script(size=1 << 28), *_FAULTS))
        time.sleep(0.3)
        self.shadow.reset_all()
        self.shadow.script = Script()

    def restart_worker(self) -> None:
        """A drain and a successor."""
        self.gateway.terminate()
        self.gateway.respawn()

    def kill_worker(self) -> None:
        """SIGKILL and a successor."""
        self.gateway.process.kill()
        self.gateway.respawn()

    def stop_worker(self) -> None:
        """SIGSTOP for a moment."""
        self.gateway.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        self.gateway.process.send_signal(signal.SIGCONT)


def storm(seconds: float, seed: int) -> Report:
    """Runs it for a while and checks every invariant."""
    chance, report = random.Random(seed), Report()
    with ExitStack() as stack:
        *fleet, shadow = stack.enter_context(backends("a", "b", "c", "shadow"))
        first = (route(timeout_s=15.0, retries=3),), (pool(*(backend.url for backend in fleet)),)
        gateway = stack.enter_context(running(*first, _LIMITS))
        weather = _Storm(gateway, fleet, shadow, chance)
        with Load(gateway.port, _POLITE, pause_s=0.002) as polite, Load(gateway.port, _RUDE, leave=0.6, seed=2) as rude:
            until(lambda: polite.tally.answered > 200, "the load runs", 30)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                weather.step()
                done = polite.tally.answered
                until(lambda: polite.tally.answered > done + 20, "requests go on", 30)  # noqa: B023
            weather.new_table()
            gateway.terminate()  # a fresh process, so that the last checks compare like with like
            gateway.respawn()
            rss, descriptors = gateway.rss(), gateway.descriptors()
            done = polite.tally.answered
            until(lambda: polite.tally.answered > done + 500, "requests go on", 60)
        report.polite, report.rude, report.events = polite.stop(), rude.stop(), weather.events
        _settle(gateway, report, rss, descriptors)
        died = weather.events["kill_worker"]
        drained = weather.events["restart_worker"] + 1
        cut = weather.events["kill_backend"] + weather.events["flap_backend"]
        for tally, clients in ((report.polite, _POLITE), (report.rude, _RUDE)):
            report.check(not tally.foreign, f"foreign answers: {tally.foreign[:3]}")
            allowed = died * clients + drained * 4 + cut * 4
            report.check(tally.broken.total() <= allowed, f"lost {tally.broken}, {allowed} allowed")
            bad = {status: count for status, count in tally.statuses.items() if status != 200}
            report.check(sum(bad.values()) <= 0.02 * tally.answered + 20, f"failed {bad} of {tally.answered}")
    return report


def aborted(requests: int, seed: int) -> Report:
    """Lets so many requests be given up, and checks that nobody gets anything of them."""
    report = Report()
    with ExitStack() as stack:
        [backend] = stack.enter_context(backends("a"))
        gateway = stack.enter_context(running((route(max_in_flight=100_000),), (pool(backend.url),), _LIMITS))
        rss, descriptors = gateway.rss(), gateway.descriptors()
        with Load(gateway.port, 8, long=0.02, pause_s=0.001) as polite:
            with Load(gateway.port, 24, leave=1.0, long=0.02, seed=seed) as rude:
                until(lambda: rude.tally.left.total() >= requests, "all were given up", 60 + requests / 100)
            done = polite.tally.answered
            until(lambda: polite.tally.answered > done + 1000, "requests go on", 60)
        report.polite, report.rude = polite.stop(), rude.stop()
        _settle(gateway, report, rss, descriptors)
        report.check(not report.polite.foreign, f"foreign answers: {report.polite.foreign[:3]}")
        report.check(not report.polite.broken, f"lost {report.polite.broken}")
        report.check(report.polite.statuses.keys() == {200}, f"failed {report.polite.statuses}")
    return report


def _settle(gateway: Gateway, report: Report, rss: int, descriptors: int) -> None:
    """Counters, memory and descriptors, once nobody asks anything any more."""
    try:
        gateway.settle(30)
        until(lambda: gateway.report().connections == 0, "every client connection is gone", 30)
    except AssertionError as error:
        report.faults.append(str(error))
    report.rss_growth, report.descriptor_growth = gateway.rss() - rss, gateway.descriptors() - descriptors
    report.check(report.rss_growth < _RSS_GROWTH, f"memory grew by {report.rss_growth >> 20} MiB")
    idle = sum(backend.idle for backend in gateway.report().backends)
    report.check(report.descriptor_growth <= idle + 16, f"{report.descriptor_growth} descriptors more, {idle} idle")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description="random faults under load")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--aborts", type=int, default=0, help="give up so many requests instead")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFF)
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    report = aborted(options.aborts, options.seed) if options.aborts else storm(options.seconds, options.seed)
    for name, tally in (("polite", report.polite), ("leaving", report.rude)):
        sys.stdout.write(
            f"{name}: {tally.sent:,} requests, statuses {dict(tally.statuses)}, lost {dict(tally.broken)}, "
            f"given up {dict(tally.left)}, foreign {len(tally.foreign)}\n"
        )
    sys.stdout.write(f"events {dict(report.events)}\n")
    sys.stdout.write(f"memory {report.rss_growth >> 20:+d} MiB, descriptors {report.descriptor_growth:+d}\n")
    for fault in report.faults:
        sys.stdout.write(f"BROKEN: {fault}\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
