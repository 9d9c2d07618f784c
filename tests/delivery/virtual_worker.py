"""A worker without a data plane: takes tables, pretends traffic by their weights, reports what it pretended."""

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.core.histogram import index
from gateway.core.route import Route, RouteTable
from gateway.messages import Applied, Frames, Hello, decode_to_worker, frame
from gateway.telemetry.records import Answer, NewKeys, Outcome, Sample, Samples, VariantCounts, WorkerReport

Verdict = Callable[[str, str, random.Random], Outcome]
Maker = Callable[[Route, str, random.Random], Sample | None]


@dataclass
class VirtualWorker:
    """Runs in a thread of its own until closed.

    Attributes:
        path: the controller's Unix socket.
        per_tick: requests per route in 50 ms.
        outcome: how a request of (route, variant) ends.
        sample: what is sampled of a request, if anything.
        quiet: routes that nobody sends requests to.
        bent: by route, how many times as often as its weight says `new` is drawn.
        table: served last.
        history: (generation, route weights) of all that were served.
        counts: what was pretended, by (route, variant, epoch).
    """

    path: str
    per_tick: int = 20
    outcome: Verdict = lambda route, variant, rng: Outcome.OK
    sample: Maker = lambda route, variant, rng: None
    quiet: set[str] = field(default_factory=set)
    bent: dict[str, float] = field(default_factory=dict)
    slot: int = 0
    table: RouteTable = field(default_factory=RouteTable)
    history: list[tuple[int, dict[str, dict[str, float]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(7)
        self.counts: dict[tuple[str, str, int], VariantCounts] = {}
        self._samples: list[Sample] = []
        self._keys: list[NewKeys] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def weights(self, route: str) -> dict[str, float]:
        """The served weights of a route."""
        return next(
            ({v.name: v.weight for v in found.variants} for found in self.table.routes if found.name == route), {}
        )

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                reader, writer = await asyncio.open_unix_connection(self.path)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            who = {"worker": self.slot, "incarnation": f"virtual-{self.slot}"}
            writer.write(frame(Hello(**who, pid=1, generation=self.table.generation)))
            listening = asyncio.create_task(self._listen(reader, writer, who))
            try:
                while not self._stop.is_set() and not listening.done():
                    await asyncio.sleep(0.05)
                    self._pretend()
                    writer.write(frame(self._report(who)))
                    if self._samples:
                        batch, self._samples = self._samples, []
                        writer.write(frame(Samples(**who, samples=batch, dropped=0)))
                    await asyncio.wait_for(writer.drain(), 1.0)
            except (OSError, TimeoutError):
                pass
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                writer.transport.abort()
                await asyncio.sleep(0.01)  # the transport closes its socket in the loop's next round

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: dict[str, object]) -> None:
        frames = Frames()
        while data := await reader.read(65536):
            for body in frames.feed(data):
                table = decode_to_worker(body).table
                if table.generation > self.table.generation:
                    self.table = table
                    shares = {route.name: {v.name: v.weight for v in route.variants} for route in table.routes}
                    self.history.append((table.generation, shares))
                writer.write(frame(Applied(**who, generation=self.table.generation)))

    def _pretend(self) -> None:
        for route in self.table.routes:
            if route.name in self.quiet:
                continue
            names = [variant.name for variant in route.variants]
            bend = self.bent.get(route.name, 1.0)
            weights = [variant.weight * (bend if variant.name == "new" else 1.0) for variant in route.variants]
            drawn = self._rng.choices(names, weights, k=self.per_tick)
            for name in drawn:
                key = route.name, name, route.epoch
                if key not in self.counts:
                    self.counts[key] = VariantCounts(route=key[0], variant=name, epoch=route.epoch)
                row = self.counts[key]
                row.assigned += 1
                ended = self.outcome(route.name, name, self._rng)
                row.outcomes[ended] += 1
                if route.evidence is not None and route.evidence.keys:  # every request comes from another client
                    for check in ("assigned", "server") if ended is Outcome.UPSTREAM_ERROR else ("assigned",):
                        found = [self._rng.getrandbits(63)]
                        self._keys.append(
                            NewKeys(route=route.name, epoch=route.epoch, variant=name, check=check, hashes=found)
                        )
                row.latency[index(2000)] += 1
                if (sample := self.sample(route, name, self._rng)) is not None:
                    self._samples.append(sample)

    def _report(self, who: dict[str, object]) -> WorkerReport:
        new_keys, self._keys = self._keys, []
        return WorkerReport(
            **who,
            pid=1,
            generation=self.table.generation,
            uptime_s=1.0,
            draining=False,
            variants=list(self.counts.values()),
            new_keys=new_keys,
            shadows=[],
            backends=[],
            faults=[],
            connections=0,
            accepted=0,
            in_flight=0,
            buffered_bytes=0,
            retries=0,
            rss_bytes=0,
        )


def answer(variant: str, label: int) -> Answer:
    """A V2 answer whose output `label` is one class."""
    body = b'{"outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[%d]}]}' % label
    return Answer(variant=variant, status=200, body=body)
