"""No seeded fault publishes anything, and the live version serves throughout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.localtriton.server import LocalTriton
from tests.export.bench import Bench, make_bench
from tests.export.faults import FAULTS, Fault, judge


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("faults")
    servers: list[LocalTriton] = []

    def start(repo: Path) -> LocalTriton:
        servers.append(LocalTriton(repo, log_file=directory / "triton.log", exit_timeout_s=1))
        servers[-1].start()
        return servers[-1]

    try:
        bench = make_bench(directory, start)
        yield bench
        bench.close()
    finally:
        for server in servers:
            server.stop()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault_is_refused_or_survived(bench: Bench, fault: Fault) -> None:
    """Each fault gets what the table says, and the live versions answer throughout as they did before."""
    verdict = judge(fault, bench)
    assert verdict.got == fault.expected
    assert verdict.wrong == ()
    assert verdict.asked > 0
