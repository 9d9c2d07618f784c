"""Exports that are killed inside their steps: `python -m tests.export.inside_steps REPO NAME TRITON SEED KILLS`.

One process imports everything, exports once to count each step's audit events (PEP 578: files opened, renamed, removed,
processes started, ...), and is forked for each export that is to die: at an event of a step that chance chooses. Every
fork resumes where the one before it was killed. A line on stdout tells of each kill; the next waits for one on stdin.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from export.errors import Step
from export.pipeline import STEPS, run
from export.request import ExportRequest
from export.state import StepReport
from tests.export.bench import BROKEN


class Counting:
    """Audit events of each step; ends the process at the chosen one, and at the step's end where that never comes."""

    def __init__(self) -> None:
        self.seen: Counter[Step] = Counter()
        self._now: Step | None = None
        self._victim: tuple[Step, int] | None = None

    def hook(self, _event: str, _arguments: tuple[object, ...]) -> None:
        """For sys.addaudithook."""
        if self._now is not None:
            self.seen[self._now] += 1
            if self._victim == (self._now, self.seen[self._now]):
                os.kill(os.getpid(), signal.SIGKILL)

    def progress(self, step: Step, report: StepReport | None) -> None:
        """For the pipeline."""
        if report is not None and self._victim is not None and self._victim[0] is step:
            os.kill(os.getpid(), signal.SIGKILL)
        self._now = step if report is None else None

    def doom(self, step: Step, event: int) -> None:
        """Die at this event of this step."""
        self.seen.clear()
        self._victim = (step, event)


def moments(counts: Counter[Step], kills: int, chance: random.Random) -> list[tuple[Step, int]]:
    """Steps in their order, each at least once, the rest at random; and an event of each."""
    steps = [definition.step for definition in STEPS]
    chosen = steps + chance.choices(steps, k=max(kills - len(steps), 0))
    return [(step, chance.randint(1, max(counts[step], 1))) for step in sorted(chosen, key=steps.index)]


def main(repo: str, name: str, triton: str, seed: str, kills: str) -> int:
    """Tell of each kill; 1 when an export was not killed."""
    counting = Counting()
    sys.addaudithook(counting.hook)
    with tempfile.TemporaryDirectory() as directory:
        twin = ExportRequest(
            spec=f"{BROKEN}:other", repo=str(Path(directory, "repo")), name=name, promote=True, serve_check="off"
        )
        run(twin, counting.progress)
    request = twin.model_copy(update={"repo": repo, "triton": triton})
    for step, event in moments(counting.seen, int(kills), random.Random(int(seed))):
        child = os.fork()
        if child == 0:
            counting.doom(step, event)
            run(request, counting.progress)
            os._exit(0)
        if os.WTERMSIG(os.waitpid(child, 0)[1]) != signal.SIGKILL:
            return 1
        print(f"killed at event {event} of {step.label}", flush=True)  # noqa: T201
        if not sys.stdin.readline():
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
