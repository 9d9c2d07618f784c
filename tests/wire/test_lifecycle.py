"""A worker's life under load: new tables, drains, successors; no client notices."""

import contextlib
import os
import signal

import pytest

from gateway.config import Limits
from gateway.core.route import Variant
from gateway.telemetry.records import Outcome
from tests.wire.backend import Backend, Script, backends
from tests.wire.client import ClosedError
from tests.wire.gateway import Gateway, decoded, infer, pool, route, running, until
from tests.wire.load import Load


def _pair(first: float) -> tuple[Variant, Variant]:
    return Variant(name="a", model="one", weight=first), Variant(name="b", model="two", weight=100 - first)


def test_new_tables_under_load() -> None:
    """A hundred generations, some with other weights and some with other pools, fail no request."""
    with Backend("a") as one, Backend("b") as two:
        fleets = [pool(one.url), pool(one.url, two.url), pool(two.url)]
        with running((route(variants=_pair(50)),), (fleets[0],)) as gateway:
            with Load(gateway.port, 12, leave=0.05) as load:
                for i in range(100):
                    table = route(variants=_pair(i % 101), timeout_s=10 + i % 3)
                    gateway.publish((table,), (fleets[i // 7 % 3],), wait=i % 10 == 0)
                    until(lambda wanted=i * 4: load.tally.answered >= wanted, "requests go on", 30)
            tally = load.stop()
            assert not tally.foreign
            assert not tally.broken
            assert tally.statuses.keys() == {200}
            gateway.settle()
            until(lambda: not one.connections, "connections to the pool that is gone are closed")


def test_counts_survive_new_tables() -> None:
    """Counters of a route belong to its epoch and go on over generations that keep it."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway:
        with gateway.connect() as wire:
            for _ in range(5):
                wire.send(infer())
                wire.answer()
                gateway.publish((route(timeout_s=5),), (pool(backend.url),))
        rows = [row for row in gateway.settle().variants if not row.pinned]
        assert [row.outcomes[Outcome.OK] for row in rows] == [5]


def test_request_under_way_outlives_its_table(gateway: Gateway, backend: Backend) -> None:
    """A request that waits at a backend is answered although its route and pool are gone by then."""
    with (
        running((route("old"),), (pool(backend.url, name="p0"), pool(backend.url))) as worker,
        worker.connect() as wire,
    ):
        wire.send(infer(name="old", test_id="old", extra=Script(hold=True).header()))
        until(lambda: backend.held, "it waits")
        worker.publish(
            (route("new", variants=(Variant(name="a", model="m", weight=100, pool="p0"),)),),
            (pool(backend.url, name="p0"),),
        )
        wire.send(infer(name="old"))
        backend.release()
        assert decoded(wire.answer().body)["id"] == "old"
        assert wire.answer().status == 404
        worker.settle()


def test_drain_finishes_what_is_under_way() -> None:
    """After SIGTERM health says 503, answers announce the close, idle clients are let go, and the exit code is 0."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway:
        with gateway.connect() as busy, gateway.connect() as idle, gateway.connect() as pipelined:
            busy.send(infer(test_id="busy", extra=Script(hold=True).header()))
            pipelined.send(infer(test_id="first", extra=Script(hold=True).header()) + infer(test_id="second"))
            idle.send(infer())
            idle.answer()
            until(lambda: backend.held == 2, "both wait at the backend")
            gateway.terminate()
            until(lambda: gateway.reports and gateway.reports[-1].draining, "it drains")
            idle.send(b"GET /v2/health/ready HTTP/1.1\r\nHost: g\r\n\r\n")
            answer = idle.answer("GET")
            assert answer.status == 503
            assert answer.headers["connection"] == "close"
            assert idle.end() == "eof"
            backend.release()
            for wire, name in ((busy, "busy"), (pipelined, "first")):
                answer = wire.answer()
                assert decoded(answer.body)["id"] == name
                assert answer.headers["connection"] == "close"
                assert wire.end() == "eof"
        assert gateway.process.wait(10) == 0


def test_drain_lets_idle_clients_go_in_order() -> None:
    """An idle connection is not cut under a request that is on its way: it serves one more, or ends."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway:
        with gateway.connect() as late, gateway.connect() as silent:
            for wire in (late, silent):
                wire.send(infer())
                wire.answer()
            gateway.terminate()
            until(lambda: gateway.reports and gateway.reports[-1].draining, "it drains")
            late.send(infer(test_id="late"))
            answer = late.answer()
            assert decoded(answer.body)["id"] == "late"
            assert answer.headers["connection"] == "close"
            assert silent.end() == "eof"
        assert gateway.process.wait(10) == 0


def test_drain_has_a_bound() -> None:
    """A request that does not end within the grace is cut off, and the worker exits."""
    limits = Limits(drain_s=0.5)
    with Backend("a") as backend, running((route(),), (pool(backend.url),), limits) as gateway:
        with gateway.connect() as wire:
            wire.send(infer(extra=Script(hold=True).header()))
            until(lambda: backend.held, "it waits")
            gateway.terminate()
            with pytest.raises(ClosedError):
                wire.answer()
        assert gateway.process.wait(10) == 0


def test_restarts_under_load() -> None:
    """Three drained workers and three successors: nothing is refused, reset or lost, and the table is there at once."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway:
        with Load(gateway.port, 10, pause_s=0.005, keep=0.98) as load:
            for i in range(3):
                until(lambda wanted=i * 100: load.tally.answered >= wanted, "requests go on", 30)
                gateway.terminate()
                gateway.respawn()
            until(lambda: load.tally.answered >= 400, "requests go on", 30)
        tally = load.stop()
        assert not tally.foreign
        assert tally.statuses.keys() == {200}
        # A client may find its idle connection closed just as it sends; HTTP has no way around that but a retry.
        assert not tally.broken.keys() - {"closed without an answer"}, tally
        assert tally.broken.total() <= 3, tally
        gateway.settle()


def test_killed_worker_loses_only_its_own() -> None:
    """SIGKILL loses the requests inside the worker; connections that nobody accepted yet are served by the next."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway:
        with gateway.connect() as inside:
            inside.send(infer(extra=Script(hold=True).header()))
            until(lambda: backend.held, "it is inside")
            os.kill(gateway.process.pid, signal.SIGSTOP)
            outside = gateway.connect()
            with outside:
                outside.send(infer(test_id="outside"))
                os.kill(gateway.process.pid, signal.SIGKILL)
                gateway.respawn()
                assert decoded(outside.answer().body)["id"] == "outside"
            with pytest.raises(ClosedError):
                inside.answer()
        gateway.settle()


@pytest.mark.parametrize("content", [b"", b"not msgpack at all", b"\x81\xa6routes\x91\x81\xa4name\xa1\xe5"])
def test_corrupt_table_file(content: bytes) -> None:
    """A worker that finds its last table unreadable says so, and waits for the controller."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway:
        gateway.table_file.write_bytes(content)
        gateway.terminate()
        gateway.respawn()
        with gateway.connect() as wire:
            wire.send(infer())
            assert wire.answer().status == 200
        assert "cannot read the last route table" in gateway.errors()


def test_backends_stay_known_over_tables() -> None:
    """A table that only adds a backend keeps the connections to the others."""
    with contextlib.ExitStack() as stack:
        one, two = stack.enter_context(backends("a", "b"))
        gateway = stack.enter_context(running((route(),), (pool(one.url),)))
        wire = stack.enter_context(gateway.connect())
        wire.send(infer())
        wire.answer()
        for _ in range(5):
            gateway.publish((route(),), (pool(one.url, two.url),))
            gateway.publish((route(),), (pool(one.url),))
            wire.send(infer())
            assert decoded(wire.answer().body)["backend"] == "a"
        assert one.accepted <= 4  # learning about models takes connections of its own
