"""Fixtures that every part's tests may use: a real Triton."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.localtriton.server import LocalTriton
from tests.triton import zoo

StartTriton = Callable[..., LocalTriton]


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A test that configures logging leaves no stream of its own behind."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def zoo_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's model repository (see tests/triton/zoo.py). Read-only: it belongs to the whole session."""
    return zoo.build(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def triton(zoo_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """One real Triton with the whole zoo loaded, in explicit mode. Do not stop, pause or reconfigure it."""
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    with LocalTriton(zoo_repository, log_file=log, exit_timeout_s=1) as server:
        yield server


@pytest.fixture
def start_triton(tmp_path: Path) -> Iterator[StartTriton]:
    """`start_triton(repository, **LocalTriton's options)` starts servers of the test's own, stopped at its end."""
    with ExitStack() as stack:
        count = 0

        def start(repository: Path, **options: Any) -> LocalTriton:
            nonlocal count
            count += 1
            settings = {"log_file": tmp_path / f"triton-{count}.log", "exit_timeout_s": 1} | options
            return stack.enter_context(LocalTriton(repository, **settings))

        yield start
