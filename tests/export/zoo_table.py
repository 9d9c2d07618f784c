"""The zoo: what is exported once for the tests, with the limits it is checked in.

`python -m tests.export.zoo_table docs/export-times.md` exports all of it, with a check on a real Triton, and
writes how long each step took, as the manifests tell it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from export.errors import Step
from export.publish import manifest as manifests


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: its SPEC, its name in the repository, and the largest batch."""

    spec: str
    name: str
    max_batch: int


SMALL = (
    Entry("export.zoo.digits:v1", "digits", 64),
    Entry("export.zoo.digits:convolutional", "digits_cnn", 64),
    Entry("export.zoo.shapes:mixed", "mixed", 16),
    Entry("export.zoo.shapes:rank_one", "rank_one", 16),
    Entry("export.zoo.shapes:detector", "detector", 16),
    Entry("export.zoo.shapes:recurrent_step", "recurrent_step", 8),
)
LARGE = (
    Entry("export.zoo.minilm:encoder", "minilm", 16),
    Entry("export.zoo.large:resnet50", "resnet50", 4),
    Entry("export.zoo.large:distilbert", "distilbert", 4),
)

_HEADER = """# Export time per model

Written by `python -m tests.export.zoo_table docs/export-times.md`: each model of the zoo exported by a process of its
own, with the check on a real Triton, and the seconds of each step from its manifest. Importing torch and the
publication itself are in "whole command" alone. {machine}

| model | SPEC | load | export | strip, structure | parity, independence | serve check | all steps | whole command |
|---|---|---|---|---|---|---|---|---|
"""


def _row(entry: Entry, repo: Path) -> str:
    command = [sys.executable, "-m", "export", entry.spec, "--repo", str(repo), "--name", entry.name]
    command += ["--max-batch", str(entry.max_batch), "--serve-check", "local"]
    began = os.times().elapsed
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = os.times().elapsed - began
    path = repo / entry.name / "1" / "manifest.json"
    seconds = {report.step: report.seconds for report in manifests.decode(path.read_bytes(), str(path)).steps}

    def took(*steps: Step) -> str:
        return f"{sum(seconds[step.label] for step in steps):.1f}"

    columns = (
        took(Step.LOAD),
        took(Step.EXPORT),
        took(Step.STRIP, Step.STRUCTURE),
        took(Step.PARITY, Step.INDEPENDENCE),
        took(Step.SERVE_CHECK),
        f"{sum(seconds.values()):.1f}",
        f"{whole:.1f}",
    )
    return f"| {entry.name} | `{entry.spec}` | {' | '.join(columns)} |"


def main(target: str) -> int:
    """Export the zoo into a directory that is removed afterwards; write the table."""
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        rows = []
        for entry in (*SMALL, *LARGE):
            rows.append(_row(entry, Path(directory) / "repo"))
            sys.stderr.write(rows[-1] + "\n")
    after = os.getloadavg()[0]
    machine = f"{os.cpu_count()} CPU cores; load average {before:.1f} before it began and {after:.1f} at its end."
    Path(target).write_text(_HEADER.format(machine=machine) + "\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
