"""Where faults are seeded: one repository, the real Triton that serves it, and somebody who keeps asking."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.errors import ExportError
from export.serving.client import Triton
from gateway.localtriton.server import LocalTriton
from tests.export.conftest import export

LIVE = "live"
BROKEN = "tests.export.broken"
_EVERY_S = 0.02


def _inputs() -> dict[str, np.ndarray]:
    return {"features": np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)}


class Watch:
    """Asks version 1 of the live models without pause; `wrong` counts errors and answers other than the first one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._first: dict[str, np.ndarray] = {}
        self._lock = threading.Condition()
        self._rounds = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.asked = 0
        self.wrong: list[str] = []

    def add(self, name: str) -> None:
        """From now on this model must answer as it does now."""
        with Triton(self._url) as triton:
            answer = triton.infer(name, 1, _inputs())["value"]
        with self._lock:
            self._first[name] = answer

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when nobody asks any more."""
        self._over.set()
        self._thread.join()

    def taken(self) -> tuple[int, list[str]]:
        """How many answers came since the last call, and what was wrong with them."""
        with self._lock:
            result = self.asked, self.wrong
            self.asked, self.wrong = 0, []
            return result

    def await_round(self, timeout_s: float = 60.0) -> None:
        """Return when every model has been asked once more, from first to last."""
        with self._lock:
            wanted = self._rounds + 2  # the round under way began before this call
            self._lock.wait_for(lambda: self._rounds >= wanted, timeout_s)

    def _ask(self) -> None:
        with Triton(self._url, timeout_s=30) as triton:
            while not self._over.wait(_EVERY_S):
                with self._lock:
                    models = list(self._first.items())
                for name, first in models:
                    self._one(triton, name, first)
                with self._lock:
                    self._rounds += 1
                    self._lock.notify_all()

    def _one(self, triton: Triton, name: str, first: np.ndarray) -> None:
        problem = ""
        try:
            if not np.array_equal(triton.infer(name, 1, _inputs())["value"], first):
                problem = f"{name} answers differently"
        except ExportError as error:
            problem = str(error)
        with self._lock:
            self.asked += 1
            self.wrong += [problem] if problem else []


@dataclass
class Bench:
    """A repository whose models a real Triton serves while faults are put into it."""

    repo: Path
    triton: Triton
    watch: Watch
    victims: list[str] = field(default_factory=list)

    def snapshot(self) -> dict[str, str]:
        """Hash of every file of the repository."""
        files = [path for path in sorted(self.repo.rglob("*")) if path.is_file()]
        return {str(path.relative_to(self.repo)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def leftovers(self) -> list[str]:
        """What lies in the staging directory."""
        return sorted(path.name for path in (self.repo.parent / ".repo.sluice" / "staging").iterdir())

    def new_victim(self, name: str) -> str:
        """A model of its own in the same repository, version 1 published, loaded and watched."""
        export(self.repo, f"{BROKEN}:healthy", name)
        return self.adopt(name)

    def adopt(self, name: str) -> str:
        """Load and watch a model that has come into the repository."""
        self.triton.load(name)
        self.watch.add(name)
        self.victims.append(name)
        return name

    def answers(self, name: str, version: int) -> np.ndarray:
        """What a version answers, after Triton has looked at the repository again."""
        self.triton.load(name)
        return self.triton.infer(name, version, _inputs())["value"]

    def look_again(self) -> None:
        """Triton looks at every watched model of the repository as it lies there now."""
        for name in (LIVE, *self.victims):
            self.triton.load(name)

    def close(self) -> None:
        """Stop asking."""
        self.watch.stop()
        self.triton.__exit__(None, None, None)


def make_bench(directory: Path, server: Callable[..., LocalTriton]) -> Bench:
    """A repository with version 1 of the live model, served and watched."""
    repo = directory / "repo"
    export(repo, f"{BROKEN}:healthy", LIVE)
    url = server(repo).http_url
    watch = Watch(url)
    watch.add(LIVE)
    watch.start()
    return Bench(repo, Triton(url), watch)
