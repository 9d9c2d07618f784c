"""What tracing costs: CPU per request of the same gateway with tracing off, on but drawing nothing, and on.

Usage: python -m loadtest.overhead.tracing [ROUNDS] [SECONDS]
Everything runs as in `sluice loadtest overhead`: interleaved, pinned, against an nginx stub, which also plays the
collector. `max_per_s` is out of the way, so that every drawn request is recorded.
"""

import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from loadtest.overhead import bench, recipes
from loadtest.overhead.arm import Recipe

_OFF: Final = "off"
# Share of requests recorded, in per cent, by arm.
SHARES: Final[Mapping[str, float]] = {"on, 0 %": 0, "on, 1 %": 1, "on, 10 %": 10, "on, 100 %": 100}
_TRACING: Final = 'tracing: {endpoint: "http://127.0.0.1:{backend}/v1/traces", sample: @SHARE@, max_per_s: 10000}\n'


def arms() -> list[Recipe]:
    """The gateway without tracing, a second time without it (what chance does), and with each share."""
    plain = recipes.sluice(_OFF)
    found = [plain, replace(plain, name="off, again")]
    for name, share in SHARES.items():
        config = plain.files["sluice.yaml"] + _TRACING.replace("@SHARE@", str(share))
        found.append(replace(plain, name=name, files={**plain.files, "sluice.yaml": config}))
    return found


def ratios(samples: list[bench.Sample]) -> dict[tuple[str, str], float]:
    """(load, arm) -> median over rounds of its CPU per request, relative to the arm without tracing in that round."""
    cost = {(s.round, s.load, s.arm): s.cpu_us_per_request for s in samples if s.connections > 1}
    by_arm: dict[tuple[str, str], list[float]] = {}
    for (number, load, arm), us in cost.items():
        base = cost.get((number, load, _OFF))
        if us and base and arm != _OFF:
            by_arm.setdefault((load, arm), []).append(us / base)
    return {key: statistics.median(found) for key, found in by_arm.items()}


def main(rounds: int, seconds: float) -> None:
    """Runs and prints a table."""
    samples = bench.compare(arms(), bench.Settings(rounds=rounds, seconds=seconds), lambda _: None)
    lines = ["| load | tracing | CPU per request, relative to tracing off |", "|---|---|---|"]
    lines += [f"| {load} | {arm} | {ratio:.3f} |" for (load, arm), ratio in sorted(ratios(samples).items())]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, float(sys.argv[2]) if len(sys.argv) > 2 else 3.0)
