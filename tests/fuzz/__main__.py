"""`python -m tests.fuzz --inputs 1000000 [--seed N] [--target NAME]`: a long run; ends with 1 when an input fails.

A failing input is written to tests/fuzz/corpus, from where every later run takes it as a seed.
"""

import argparse
import hashlib
import signal
import sys
import time
import traceback

from tests.fuzz.mutate import CORPUS, Mutator
from tests.fuzz.targets import TARGETS

_SHOWN = 5
_LONGEST_S = 10.0


def fuzz(name: str, inputs: int, seed: int) -> list[bytes]:
    """Tries a target; returns the inputs that failed, at most a few."""
    target, mutator, failed = TARGETS[name], Mutator(name, seed), []
    for _ in range(inputs):
        data = mutator.next()
        signal.setitimer(signal.ITIMER_REAL, _LONGEST_S)
        try:
            target(data, mutator.chance)
        except Exception:  # noqa: BLE001 - whatever comes out is the finding
            failed.append(data)
            sys.stderr.write(f"{name}: {data!r}\n")
            traceback.print_exc()
            if len(failed) >= _SHOWN:
                break
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return failed


def _too_long(*_: object) -> None:
    raise TimeoutError(f"not done after {_LONGEST_S:g} s")


def main() -> int:
    """Spreads the inputs over the targets."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    parser.add_argument("--target", choices=sorted(TARGETS), help="one target only")
    options = parser.parse_args()
    names = [options.target] if options.target else list(TARGETS)
    sys.stdout.write(f"seed {options.seed}\n")
    found = 0
    signal.signal(signal.SIGALRM, _too_long)
    for name in names:
        started = time.perf_counter()
        failed = fuzz(name, options.inputs // len(names), options.seed)
        seconds = time.perf_counter() - started
        sys.stdout.write(
            f"{name:15} {options.inputs // len(names):>9,} inputs {seconds:7.1f} s, {len(failed)} unhandled\n"
        )
        for data in failed:
            CORPUS.mkdir(exist_ok=True)
            (CORPUS / f"{name}-{hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]}").write_bytes(data)
        found += len(failed)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
