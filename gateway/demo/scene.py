"""What the demo's stages share."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.demo import commands, judge


@dataclass(slots=True)
class Scene:
    """What the stages share.

    Attributes:
        directory: everything is written below it.
        deadline: of the whole demo.
        requests: rows to send through the split.
        keep: what was started lives on.
        stack: what must be stopped at the end.
        progress: tells how many of the stage's steps are done, of how many.
        urls: where things can be reached.
        pids: what was started.
        results: the report, as it grows.
        checks: the claims, as they are decided.
    """

    directory: Path
    deadline: commands.Deadline
    requests: int
    keep: bool
    stack: ExitStack
    progress: Callable[[int, int], None] = lambda _done, _all: None
    urls: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    checks: list[judge.Check] = field(default_factory=list)

    @property
    def repository(self) -> Path:
        """The model repository."""
        return self.directory / "model_repository"

    def log(self, name: str) -> Path:
        """Where a command's log goes."""
        return self.directory / "logs" / f"{name}.log"

    def serve(self, name: str, *arguments: str) -> Any:
        """Start a command that goes on serving, and wait until it does."""
        service = commands.Service([name, *arguments], log=self.log(name), detached=self.keep)
        self.stack.callback(service.stop)
        self.pids[name] = service.pid
        return service.ready(self.deadline)
