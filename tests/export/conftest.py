"""Artefacts that are exported once and shared: exporting is the slow part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from export.pipeline import Result, run
from export.request import ExportRequest
from gateway.localtriton.server import LocalTriton
from tests.export.zoo_table import LARGE, SMALL, Entry

Exporter = Callable[..., Result]


def export(repo: Path | str, spec: str, name: str, **options: object) -> Result:
    """Run the pipeline with defaults that suit tests."""
    options.setdefault("serve_check", "off")
    return run(ExportRequest.model_validate({"spec": spec, "repo": str(repo), "name": name, **options}))


@pytest.fixture(scope="session")
def export_into() -> Exporter:
    """The function above, for tests that run the pipeline themselves."""
    return export


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with digits 1, 2, 3, all served. Read-only: it belongs to the whole session."""
    repo = tmp_path_factory.mktemp("samples") / "repo"
    for version in (1, 2, 3):
        export(repo, f"export.zoo.digits:v{version}", "digits", promote=True)
    return repo


def _zoo(repo: Path, entries: tuple[Entry, ...]) -> Path:
    for entry in entries:
        export(repo, entry.spec, entry.name, max_batch=entry.max_batch)
    return repo


@pytest.fixture(scope="session")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with every small model of the zoo. Read-only."""
    return _zoo(tmp_path_factory.mktemp("small") / "repo", SMALL)


@pytest.fixture(scope="session")
def large_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with MiniLM and the two large models. Read-only."""
    return _zoo(tmp_path_factory.mktemp("large") / "repo", LARGE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], LocalTriton]]:
    """`served(repository)` is a Triton that has loaded it; one for each repository of a module."""
    with ExitStack() as stack:
        running: dict[Path, LocalTriton] = {}

        def serve(repository: Path) -> LocalTriton:
            if repository not in running:
                log = tmp_path_factory.mktemp("log") / "triton.log"
                server = LocalTriton(repository, log_file=log, exit_timeout_s=1, ready_timeout_s=120)
                running[repository] = stack.enter_context(server)
            return running[repository]

        yield serve
