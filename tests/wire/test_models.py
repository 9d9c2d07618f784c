"""Requests go to the replicas that have the model."""

from gateway.core.pool import Probe
from tests.wire.backend import Backend
from tests.wire.gateway import Gateway, infer, pool, route, running, until


def served_by(gateway: Gateway, first: Backend, second: Backend, count: int = 30) -> tuple[int, int]:
    """How many of some requests each backend got."""
    before = len(first.seen), len(second.seen)
    with gateway.connect() as wire:
        for _ in range(count):
            wire.send(infer())
            assert wire.answer().status == 200
    return len(first.seen) - before[0], len(second.seen) - before[1]


def test_a_replica_without_the_model_gets_no_requests() -> None:
    """A ready backend that lacks the model is passed by until it has it; if all lack it, all are asked."""
    probe = Probe(interval_s=0, models_interval_s=0.05)
    with (
        Backend("a") as first,
        Backend("b") as second,
        running((route(),), (pool(first.url, second.url, probe=probe),)) as gateway,
    ):
        until(lambda: min(served_by(gateway, first, second)) > 0, "both serve")
        second.has_model = False
        until(lambda: served_by(gateway, first, second) == (30, 0), "only the first serves")
        second.has_model = True
        until(lambda: min(served_by(gateway, first, second)) > 0, "both serve again")
        first.has_model = second.has_model = False
        assert sum(served_by(gateway, first, second)) == 30
        gateway.settle()
