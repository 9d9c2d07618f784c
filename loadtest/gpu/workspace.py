"""Stages whose results are kept, so that a run that was cut off, or had to stop, goes on where it was."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from loadtest.errors import FileError, LoadTestError

Work = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Stage:
    """One piece of work.

    Attributes:
        key: names its result's file.
        seconds: what it takes at most.
        work: does it.
        needed: whether it must be done, asked when its turn comes; by default, when it has no result yet.
        after: key of the stage without which this one cannot be done.
    """

    key: str
    seconds: float
    work: Work
    needed: Callable[[], bool] | None = None
    after: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Whether all stages are done, and those that failed in this run with the reason."""

    complete: bool
    failed: Mapping[str, str]


class Workspace:
    """A directory with the settings of a run and the result of every stage that is done.

    Raises:
        FileError: it belongs to a run with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._results = folder / "results"
        self._results.mkdir(parents=True, exist_ok=True)
        wanted = msgspec.json.encode(dict(settings))
        file = folder / "settings.json"
        if file.exists() and msgspec.json.decode(file.read_bytes()) != msgspec.json.decode(wanted):
            raise FileError(f"{folder} belongs to a run with other settings; name another --folder, or use --fresh")
        file.write_bytes(wanted)

    def result(self, key: str) -> dict[str, Any] | None:
        """What a stage gave, if it is done."""
        file = self._results / f"{key}.json"
        found: dict[str, Any] | None = msgspec.json.decode(file.read_bytes()) if file.exists() else None
        return found

    def run(self, stages: Sequence[Stage], budget_s: float, say: Callable[[str], None]) -> Progress:
        """Do what is not done yet, as long as a stage surely fits in the time left.

        A stage that fails, and those that come after it, are left for the next run; the others go on.
        """
        until = time.monotonic() + budget_s
        failed: dict[str, str] = {}
        for number, stage in enumerate(stages, 1):
            where = f"[{number}/{len(stages)}] {stage.key}"
            if not (self.result(stage.key) is None if stage.needed is None else stage.needed()):
                continue
            if stage.after in failed:
                failed[stage.key] = f"needs {stage.after}"
                say(f"{where}: left out, {failed[stage.key]}")
                continue
            if time.monotonic() + stage.seconds > until:
                say(f"{where}: needs up to {stage.seconds:.0f} s, more than is left; run the same command again")
                return Progress(complete=False, failed=failed)
            begun = time.monotonic()
            say(where)
            try:
                found = msgspec.json.encode(dict(stage.work()))
            except LoadTestError as error:
                failed[stage.key] = str(error)
                say(f"{where}: failed: {error}")
                continue
            draft = self._results / f"{stage.key}.part"
            draft.write_bytes(found)
            draft.replace(self._results / f"{stage.key}.json")
            say(f"{where}: {time.monotonic() - begun:.0f} s")
        return Progress(complete=not failed, failed=failed)
