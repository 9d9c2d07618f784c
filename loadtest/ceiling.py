"""What Locust itself can send at most, against a stub that costs next to nothing."""

from collections.abc import Callable, Sequence

import msgspec

from loadtest import scenario_file
from loadtest.execute import Options, execute
from loadtest.locust_process import Workers
from loadtest.overhead import stub
from loadtest.plan import Arm
from loadtest.scenario import Steady


class Ceiling(msgspec.Struct, frozen=True):
    """What one Locust configuration can send at most.

    `per_cpu_second` is what one core gives when it is not shared, whatever else runs on the machine.
    """

    processes: int
    encoding: str
    arrivals: str
    rate_per_s: float
    per_cpu_second: float
    p50_ms: float | None
    cpu_shares: list[float]


def measure(
    processes: Sequence[int], *, users: int, seconds: float, on_ceiling: Callable[[Ceiling], None] = lambda _: None
) -> list[Ceiling]:
    """Drive the stub with digits as JSON and as binary, from each number of processes.

    Args:
        processes: numbers of Locust processes to try.
        users: closed users in all.
        seconds: length of each run.
        on_ceiling: told each figure as it is known.

    Raises:
        MissingToolError: nginx, which is the stub, is not installed.
        BrokenRunError: the load could not be produced.
    """
    found: list[Ceiling] = []
    with stub.running() as port:
        for count in processes:
            for encoding in ("json", "binary"):
                base = scenario_file.load_scenario(f"digits-{encoding}")
                chosen = base.model_copy(update={"shape": Steady(level=users, duration_s=seconds), "objectives": ()})
                arms = [Arm("stub", f"http://127.0.0.1:{port}")]
                result = execute(chosen, Options(arms=arms, workers=Workers(processes=count)))
                group, shares = result.groups[0], result.generator.cpu_shares
                found.append(
                    Ceiling(
                        processes=count,
                        encoding=encoding,
                        arrivals=base.arrivals,
                        rate_per_s=group.rate_per_s,
                        per_cpu_second=group.rate_per_s / max(sum(shares), 1e-9),
                        p50_ms=group.latency.p50_ms,
                        cpu_shares=shares,
                    )
                )
                on_ceiling(found[-1])
    return found
