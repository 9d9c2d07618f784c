"""Wrong bodies through the gateway to a real Triton: its answer passes, and nobody but the client is blamed."""

from collections.abc import Iterator

import pytest

from gateway.core.pool import Ejection
from gateway.core.route import Variant
from gateway.localtriton.server import LocalTriton
from gateway.telemetry.records import Outcome
from tests.wire.gateway import Gateway, infer, pool, route, running
from tests.wire.v2_bodies import BODIES


@pytest.fixture(scope="module")
def gateway(triton: LocalTriton) -> Iterator[Gateway]:
    """A worker in front of the shared Triton, quick to eject."""
    variants = (Variant(name="a", model="add_sub", weight=100.0),)
    texts = (Variant(name="a", model="bytes_identity", weight=100.0),)
    url = triton.http_url
    fleet = pool(url, url.replace("127.0.0.1", "localhost"), ejection=Ejection(consecutive=2))
    with running((route(variants=variants), route("text", variants=texts)), (fleet,)) as gateway:
        yield gateway


@pytest.mark.parametrize("name", BODIES)
def test_wrong_body(gateway: Gateway, name: str) -> None:
    """Triton's answer reaches the client, counts as the client's error, and the next request is served."""
    body = BODIES[name]
    before = gateway.counts()
    request = infer(body.data, name=body.route, extra=b"".join(field + b"\r\n" for field in body.fields))
    with gateway.connect(timeout_s=60) as wire:
        for _ in range(1 if len(body.data) > 100_000 else 3):
            wire.send(request)
            assert wire.answer().status == body.status
        wire.send(infer(BODIES["a good one"].data))
        assert wire.answer().status == 200
    report = gateway.settle()
    counts = gateway.counts(report=report)
    failed = {Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.CONNECT_ERROR}
    assert not {outcome for outcome in failed if counts.outcomes[outcome] != before.outcomes[outcome]}
    assert sum(backend.ejections for backend in report.backends) == 0
