"""A machine that has nothing left to give, and a clock that cannot be trusted."""

import re
import resource
from pathlib import Path

from tests.wire.backend import Backend
from tests.wire.bad_inputs import DOCUMENT
from tests.wire.gateway import infer, pool, route, running, until
from tests.wire.other_faults import OTHERS

_SPARE = 3
_TESTS = Path(__file__).parents[1]
_CALENDAR = re.compile(r"\btime\.time\(|\bdatetime\.now\(|\bdatetime\.utcnow\(")


def test_without_descriptors_nobody_is_lost() -> None:
    """Who is connected is served, who is not waits in the backlog, and has its turn when descriptors come back."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway:
        with gateway.connect() as first:
            first.send(infer())
            assert first.answer().status == 200
            limit = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
            few = gateway.descriptors() + _SPARE
            resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (few, limit[1]))
            crowd = [gateway.connect() for _ in range(4 * _SPARE)]
            until(lambda: "cannot accept" in gateway.errors(), "there is none left")
            first.send(infer())
            assert first.answer().status == 200
            assert gateway.alive
            for wire in crowd:
                wire.send(infer())
            resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, limit)
            # The first few were let in, and may have found no descriptor left for a backend.
            assert [wire.answer().status for wire in crowd[_SPARE:]] == [200] * (len(crowd) - _SPARE)
            for wire in crowd:
                wire.socket.close()
        gateway.settle()


def test_the_request_path_reads_no_calendar() -> None:
    """Deadlines, ejections and time limits follow the steady clock; only what is written down has a date."""
    package = _TESTS.parent / "gateway"
    found = {
        str(path.relative_to(package))
        for part in ("core", "http", "dataplane", "supervisor")
        for path in (package / part).rglob("*.py")
        if _CALENDAR.search(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_every_fault_names_a_test_that_exists() -> None:
    """The table in the document points to tests, and to ones that are there."""
    for name, (_, shown) in OTHERS.items():
        file, _, test = shown.partition("::")
        source = (_TESTS / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), f"{name}: {shown}"
        assert f"`tests/{shown}`" in DOCUMENT.read_text(encoding="utf-8")
