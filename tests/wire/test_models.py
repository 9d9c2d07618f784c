"""Requests go to the replicas that have the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.core.pool import InferenceProbe, Probe
from tests.wire.backend import Backend, Script
from tests.wire.gateway import Gateway, infer, pool, route, running, until


@contextmanager
def replicas(probe: Probe, **more: Any) -> Iterator[tuple[Backend, Backend, Gateway]]:
    """Two backends in one pool that is probed like that, and a worker before them."""
    with (
        Backend("a") as first,
        Backend("b") as second,
        running((route(),), (pool(first.url, second.url, probe=probe, **more),)) as gateway,
    ):
        yield first, second, gateway


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
    with replicas(probe) as (first, second, gateway):
        until(lambda: min(served_by(gateway, first, second)) > 0, "both serve")
        second.has_model = False
        until(lambda: served_by(gateway, first, second) == (30, 0), "only the first serves")
        second.has_model = True
        until(lambda: min(served_by(gateway, first, second)) > 0, "both serve again")
        first.has_model = second.has_model = False
        assert sum(served_by(gateway, first, second)) == 30
        gateway.settle()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (503, "Request for unknown model: 'model' version 1 is not at ready state"),
        (400, "Request for unknown model: 'model' is not found"),
    ],
)
def test_a_replica_that_says_it_lacks_the_model_is_left_alone(status: int, text: str) -> None:
    """It answers at once, so it would draw most requests; after one it gets no more, though nobody asks meanwhile."""
    probe = Probe(interval_s=0, models_interval_s=3600)
    with replicas(probe) as (first, second, gateway):
        until(lambda: min(served_by(gateway, first, second)) > 0, "both serve")
        second.script = Script(status=status, body=f'{{"error":"{text}"}}')
        until(lambda: served_by(gateway, first, second) == (30, 0), "only the first serves")
        assert gateway.settle().retries < 10


def test_a_replica_that_said_it_lacks_the_model_comes_back() -> None:
    """The next question finds that it has the model again."""
    probe = Probe(interval_s=0, models_interval_s=0.5)
    with replicas(probe) as (first, second, gateway):
        second.script = Script(status=503, body='{"error":"model is not at ready state"}')
        until(lambda: served_by(gateway, first, second) == (30, 0), "only the first serves")
        second.script = Script()
        until(lambda: min(served_by(gateway, first, second)) > 0, "both serve again")
        gateway.settle()


def test_an_inference_probe_finds_a_server_that_only_looks_ready() -> None:
    """A backend that says ready and fails every inference is taken out by the probe's own inference."""
    probe = Probe(interval_s=0.05, inference=InferenceProbe(model="model", body='{"inputs":[]}'))
    with replicas(probe, panic_percent=0) as (_, second, gateway):
        until(lambda: all(backend.state == "up" for backend in gateway.report().backends), "both are up")
        second.script = Script(status=500)
        until(lambda: "down" in [backend.state for backend in gateway.report().backends], "one is down")
        before = len([seen for seen in second.seen if seen.test_id])
        with gateway.connect() as wire:
            for _ in range(20):
                wire.send(infer(test_id="mine"))
                assert wire.answer().status == 200
        assert len([seen for seen in second.seen if seen.test_id]) == before


def test_an_error_text_loses_its_paths() -> None:
    """A backend's error reaches the client without the places of its files, whole and with the right length."""
    error = '{"error":"cannot open /models/digits/1/model.onnx"}'
    with (
        Backend("a", script=Script(status=400, body=error)) as backend,
        running((route(), route("bare", scrub_errors=False)), (pool(backend.url),)) as gateway,
        gateway.connect() as wire,
    ):
        wire.send(infer())
        assert wire.answer().body == b'{"error":"cannot open [path]"}'
        wire.send(infer(name="bare"))
        assert wire.answer().body == error.encode()
