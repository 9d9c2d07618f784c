"""Everything that is to be shown of a gateway under load on one machine, one part after the other."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from loadtest import ceiling, knee, probing, results, scenario_file, servers
from loadtest.ceiling import Ceiling
from loadtest.driver.messages import Progress
from loadtest.errors import BrokenRunError
from loadtest.execute import Options, execute
from loadtest.plan import Arm
from loadtest.report import html
from loadtest.results import Result
from loadtest.scenario import changed, resized

GATEWAY: Final = "gateway"
DIRECT: Final = "direct"
MODEL: Final = "digits"
_SPEC: Final = "export.zoo.digits:v2"
_EXPORT_S: Final = 300.0
_WARMUP_S: Final = 2.0
_ARM_SLICE_S: Final = 1.0
_STALL_LATENCY_S: Final = 0.002
_STALL_S: Final = 1.0
_STALL_USERS: Final = 4
_STALL_RATE: Final = 200

Say = Callable[[str], None]
Follow = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured and how long.

    Attributes:
        scenarios: built-in ones, each with the peak level it is driven at (None: its own), direct and through the
            gateway in turns.
        run_s: seconds of each.
        processes: numbers of Locust processes whose ceiling is measured.
        ceiling_s: seconds of each.
        knee: rates to search.
        probe_s: seconds of each probe.
        stall_s: seconds of each run against the stall of a second.
        workers: of the gateway.
    """

    scenarios: Mapping[str, float | None]
    run_s: float
    processes: Sequence[int]
    ceiling_s: float
    knee: knee.Range
    probe_s: float
    stall_s: float
    workers: int = 1


FULL: Final = Settings(
    # The open one asks for a little more than its objective of 1,000 answers a second, the others for all they get.
    scenarios={
        "digits-binary": None,
        "digits-json": None,
        "digits-batches": None,
        "digits-sticky": None,
        "digits-open": 1050.0,
    },
    run_s=42.0,
    processes=(1, 2),
    ceiling_s=8.0,
    knee=knee.Range(520.0, 20_000.0, 0.07),
    probe_s=8.0,
    stall_s=12.0,
)


SMOKE: Final = Settings(
    scenarios={"digits-binary": None},
    run_s=6.0,
    processes=(1,),
    ceiling_s=3.0,
    knee=knee.Range(60.0, 60.0, 1.0),
    probe_s=3.0,
    stall_s=4.0,
)


class Proof(msgspec.Struct, frozen=True):
    """What was seen; cells are left out of `runs`, whose full results lie in the folder."""

    runs: list[Result]
    ceilings: list[Ceiling]
    knees: list[knee.Side]
    opened: Result
    closed: Result


def prove(settings: Settings, folder: Path, repository: Path | None, say: Say, follow: Follow) -> Proof:
    """Take all figures; servers are started here, on free ports, and ended.

    Args:
        settings: what and how long.
        folder: where results, reports and logs are kept.
        repository: a Triton repository with a digits classifier; one is exported if not given.
        say: told a line about each part.
        follow: told once a second how a run goes.

    Raises:
        LoadTestError: a server did not start, or a load could not be produced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if repository is None:
        repository = _exported(folder, say)
    # The stub comes first: what it needs and lacks is known at once, not after minutes.
    say(f"the load generator's own ceiling: {' and '.join(map(str, settings.processes))} process(es)")
    ceilings = ceiling.measure(
        settings.processes,
        users=32,
        seconds=settings.ceiling_s,
        on_ceiling=lambda c: say(f"  {c.processes} process(es), {c.encoding}: {c.rate_per_s:,.0f}/s"),
    )
    with _served(folder, repository, settings.workers) as (gateway, triton):
        arms = [Arm(GATEWAY, gateway), Arm(DIRECT, triton)]
        runs = [
            _side_by_side(name, level, settings, arms, folder, say, follow)
            for name, level in settings.scenarios.items()
        ]
        knees = _knees(settings, arms, say, follow)
    opened, closed = (_stalled(arrivals, settings.stall_s, folder, say, follow) for arrivals in ("open", "closed"))
    return Proof([bare(run) for run in runs], ceilings, knees, opened, closed)


def _exported(folder: Path, say: Say) -> Path:
    repository = folder / "repository"
    if not (repository / MODEL / "1").is_dir():
        say(f"exporting {_SPEC}")
        arguments = ["--repo", str(repository), "--name", MODEL, "--serve-check", "off", "--promote", "-o", "json"]
        servers.call("export", _SPEC, *arguments, log=folder / "export.log", timeout_s=_EXPORT_S)
    return repository


@contextmanager
def _served(folder: Path, repository: Path, workers: int) -> Iterator[tuple[str, str]]:
    """URLs of a gateway and of the Triton behind it."""
    routes = {"routes": [{"name": MODEL, "variants": [{"name": "v1", "model": MODEL, "version": "1", "weight": 100}]}]}
    with (
        servers.triton(repository, MODEL, folder / "triton.log") as triton,
        servers.gateway(folder / "gateway", triton, routes, workers) as gateway,
    ):
        yield gateway, triton


def _side_by_side(
    name: str, level: float | None, settings: Settings, arms: Sequence[Arm], folder: Path, say: Say, follow: Follow
) -> Result:
    """One scenario through the gateway and straight to Triton, a second each in turns."""
    say(f"{name}: {settings.run_s:g} s, through the gateway and straight to Triton in turns")
    scenario = resized(scenario_file.load_scenario(name), peak=level, duration_s=settings.run_s)
    scenario = changed(scenario, warmup_s=min(_WARMUP_S, settings.run_s / 4))
    options = Options(arms=arms, arm_slice_s=_ARM_SLICE_S, stats_url=arms[1].url)
    result = execute(scenario, options, follow)
    _keep(folder, name, result)
    for group in result.groups:
        if "," not in group.where:
            p50, p99 = group.latency.p50_ms or 0.0, group.latency.p99_ms or 0.0
            say(
                f"  {group.where}: {group.rate_per_s:,.0f}/s, p50 {p50:.3g} ms, p99 {p99:.3g} ms, {group.errors} errors"
            )
    say(f"  objectives through the gateway: {result.verdict}")
    return result


def _knees(settings: Settings, arms: Sequence[Arm], say: Say, follow: Follow) -> list[knee.Side]:
    """Both searches at once, probe by probe in turns, so that neither has a quieter machine than the other."""
    say("the knee, direct and through the gateway, probe by probe in turns")
    scenario = scenario_file.load_scenario("digits-open")
    probes: dict[str, list[knee.Probe]] = {arm.name: [] for arm in arms}
    answers: dict[str, knee.Knee] = {}
    while len(answers) < len(arms):
        for arm in arms:
            step = knee.next_step(probes[arm.name], settings.knee)
            if isinstance(step, knee.Knee):
                answers[arm.name] = step
                continue
            result = execute(probing.at(scenario, step, settings.probe_s), Options(arms=[arm]), follow)
            probes[arm.name].append(probing.probe(result, step))
            say(f"  {arm.name:8} {probing.line(probes[arm.name][-1])}")
    return [knee.Side(arm.name, answers[arm.name], probes[arm.name]) for arm in arms]


def _stalled(arrivals: str, seconds: float, folder: Path, say: Say, follow: Follow) -> Result:
    """A server that answers in 2 ms, except for one second in the middle of the run in which it answers nothing."""
    say(f"a stall of {_STALL_S:g} s, {arrivals} arrivals")
    level = _STALL_RATE if arrivals == "open" else _STALL_USERS
    scenario = changed(
        scenario_file.load_scenario("digits-json"),
        arrivals=arrivals,
        spacing="even",
        connections=2 * _STALL_RATE,
        warmup_s=0.0,
        shape={"kind": "steady", "level": level, "duration_s": seconds},
        objectives=[{"metric": "latency_p99_ms", "below": 100}],
    )
    stall = [
        "--latency",
        str(_STALL_LATENCY_S),
        "--stall-at",
        f"{(seconds - _STALL_S) / 2:g}",
        "--stall",
        str(_STALL_S),
    ]
    with subprocess.Popen([sys.executable, "-m", "loadtest.stub", *stall], stdout=subprocess.PIPE, text=True) as stub:
        try:
            assert stub.stdout is not None
            url = stub.stdout.readline().strip()
            if not url:
                raise BrokenRunError("the scripted server did not start")
            result = execute(scenario, Options(arms=[Arm("stub", url)]), follow)
        finally:
            stub.terminate()
    _keep(folder, f"stall-{arrivals}", result)
    say(f"  p99 {result.groups[0].latency.p99_ms or 0.0:,.3g} ms")
    return result


def _keep(folder: Path, name: str, result: Result) -> None:
    results.write(folder / f"{name}.json", result)
    html.write(folder / f"{name}.html", result)


def bare(result: Result) -> Result:
    """The result without its cells, which are most of it."""
    return msgspec.structs.replace(result, cells=[])
