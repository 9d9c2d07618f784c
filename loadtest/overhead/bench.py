"""The interleaved run: all arms are up all the time, and every round visits them in a new random order."""

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from loadtest.errors import BrokenRunError
from loadtest.overhead import arm, proctree, stub, wrk
from loadtest.overhead.arm import Recipe, Running

DIRECT: Final = "direct"
# One 224 x 224 RGB picture in FP32.
IMAGE_BYTES: Final = 602_112
_LATENCY_S: Final = 2.0


class Sample(msgspec.Struct, frozen=True):
    """One visit: an arm under one kind of load. CPU is that of the arm's whole process tree, None for the stub."""

    round: int
    arm: str
    load: str
    connections: int
    cpu_us_per_request: float | None
    measured: wrk.Measured


class Footprint(msgspec.Struct, frozen=True):
    """Memory of the arm's largest process in MiB: idle, and its peak under bodies of each size."""

    arm: str
    process: str
    idle_mib: float
    peak_mib: dict[str, float]


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how often; `connections` at once for throughput, always 1 for added latency."""

    rounds: int = 5
    seconds: float = 3.0
    connections: int = 32
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cpus:
    """Command prefixes that pin to a CPU: stub and load generator share one, the arm has the other."""

    load: Sequence[str]
    arm: Sequence[str]


def two_cpus() -> Cpus:
    """The first two CPUs that this process may use.

    Raises:
        BrokenRunError: there is only one; a proxy must not compete with its load.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise BrokenRunError("the benchmark needs two CPUs: one for stub and wrk, one for the proxy")
    taskset = stub.find("taskset", "util-linux")
    return Cpus([taskset, "-c", str(usable[0])], [taskset, "-c", str(usable[1])])


def check_tools() -> None:
    """Make sure that nothing is missing before anything is started.

    Raises:
        MissingToolError: nginx or wrk is not installed.
        BrokenRunError: there is only one CPU.
    """
    stub.find("nginx", "nginx-light")
    stub.find("wrk", "wrk")
    two_cpus()


def compare(recipes: Sequence[Recipe], settings: Settings, on_sample: Callable[[Sample], None]) -> list[Sample]:
    """CPU per request, rate and latency of the stub itself and of every arm, round by round.

    Round 0 warms up and is not returned.

    Raises:
        MissingToolError: nginx or wrk is not installed.
        BrokenRunError: an arm does not run.
    """
    cpus = two_cpus()
    shuffle = random.Random(settings.seed).shuffle
    samples: list[Sample] = []
    with _folder() as folder, stub.running(cpus.load) as backend, ExitStack() as stack:
        running = [Running(DIRECT, backend, None)]
        running += [
            stack.enter_context(arm.started(recipe, backend=backend, folder=folder, cpu=cpus.arm)) for recipe in recipes
        ]
        loads = [
            (wrk.small(), settings.connections, settings.seconds),
            (wrk.tensor("image", IMAGE_BYTES), settings.connections, settings.seconds),
            (wrk.small(), 1, min(settings.seconds, _LATENCY_S)),
            (wrk.refused(), settings.connections, settings.seconds),
        ]
        for number in range(settings.rounds + 1):
            for payload, connections, seconds in loads:
                shuffle(running)
                for one in running:
                    if payload.refusal and one.pid is None:
                        continue  # the stub refuses nothing
                    sample = _visit(one, payload, connections, 1.0 if number == 0 else seconds, number, folder, cpus)
                    if number:
                        samples.append(sample)
                        on_sample(sample)
    return samples


def footprint(recipe: Recipe, *, bodies_mib: Sequence[int], connections: int, seconds: float) -> Footprint:
    """Memory of an arm, started afresh for every body size so that peaks do not mix.

    Raises:
        BrokenRunError: the arm does not run, or answered with errors.
    """
    cpus = two_cpus()
    peaks: dict[str, float] = {}
    idle, name = 0.0, ""
    for mib in bodies_mib:
        with (
            _folder() as folder,
            stub.running(cpus.load) as backend,
            arm.started(recipe, backend=backend, folder=folder, cpu=cpus.arm) as one,
        ):
            assert one.pid is not None
            # The worker is the process that an inference makes work; its memory is read before any other load.
            busy = _busiest(one, folder, cpus)
            before = proctree.memory(busy)
            idle, name = max(idle, before.now_mib), before.name
            payload = wrk.tensor(f"body-{mib}", mib << 20, keys=1)
            seen = wrk.measure(
                one.port, payload, connections=connections, seconds=seconds, folder=folder, cpu=cpus.load
            )
            if seen.errors or seen.requests < connections:
                raise BrokenRunError(f"{mib} MiB bodies: {seen.requests} requests, {seen.errors} errors: no figure")
            peaks[f"{mib} MiB"] = proctree.memory(busy).peak_mib
    return Footprint(recipe.name, role(name), idle, peaks)


def _visit(
    one: Running, payload: wrk.Payload, connections: int, seconds: float, number: int, folder: Path, cpus: Cpus
) -> Sample:
    before = proctree.cpu_seconds(one.pid) if one.pid else 0.0
    seen = wrk.measure(one.port, payload, connections=connections, seconds=seconds, folder=folder, cpu=cpus.load)
    spent = (proctree.cpu_seconds(one.pid) - before) * 1e6 / max(seen.requests, 1) if one.pid else None
    load = payload.name if connections > 1 else f"{payload.name}, 1 connection"
    return Sample(number, one.name, load, connections, spent, seen)


def _busiest(one: Running, folder: Path, cpus: Cpus) -> int:
    assert one.pid is not None
    before = {pid: proctree.own_cpu_seconds(pid) for pid in proctree.pids(one.pid)}
    wrk.measure(one.port, wrk.small(), connections=1, seconds=1, folder=folder, cpu=cpus.load)
    return max(before, key=lambda pid: proctree.own_cpu_seconds(pid) - before[pid])


def role(command: str) -> str:
    """A command line without paths: they say nothing about the process and much about the machine."""
    words = [Path(word).name if "/" in word else word for word in command.split()]
    return " ".join(words[:4])


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sluice-overhead-") as name:
        yield Path(name)
