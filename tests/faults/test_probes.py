"""Active probes: a backend that is not ready, hangs or is gone gets no request, and comes back by itself."""

from collections.abc import Callable

import pytest

from gateway.core.pool import Probe
from gateway.telemetry.records import BackendStatus
from tests.wire.backend import Backend
from tests.wire.gateway import Gateway, infer, pool, route, running, until


def _not_ready(backend: Backend, broken: bool) -> None:
    backend.ready = not broken


def _hangs(backend: Backend, broken: bool) -> None:
    backend.health_hangs = broken


def _gone(backend: Backend, broken: bool) -> None:
    backend.kill() if broken else backend.listen()


def _status(gateway: Gateway, backend: Backend) -> BackendStatus:
    return next(row for row in gateway.report().backends if row.url == backend.url)


@pytest.mark.parametrize("fault", [_not_ready, _hangs, _gone])
def test_a_backend_that_fails_its_probes(fault: Callable[[Backend, bool], None]) -> None:
    """No connection to it is kept and nothing is sent there after two failed probes, until one succeeds."""
    probe = Probe(interval_s=0.05, timeout_s=0.5)
    with Backend("a") as first, Backend("b") as second:
        fleet = pool(first.url, second.url, probe=probe, slow_start_s=0, panic_percent=0)
        with running((route(),), (fleet,)) as gateway, gateway.connect(timeout_s=60) as wire:

            def ask(count: int) -> None:
                for _ in range(count):
                    wire.send(infer())
                    assert wire.answer().status == 200

            until(lambda: ask(1) or (first.seen and second.seen), "both serve")
            fault(second, True)
            until(lambda: _status(gateway, second).state == "down", "it is out", 30)
            known = second.accepted
            until(lambda: fault is _gone or second.accepted > known + 3, "each probe makes a connection and keeps none")
            before = len(second.seen)
            ask(30)
            assert len(second.seen) == before
            fault(second, False)
            until(lambda: ask(1) or len(second.seen) > before, "it serves again", 30)
            assert _status(gateway, second).state == "up"
            assert _status(gateway, second).ejections == 0
