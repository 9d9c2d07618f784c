"""The table of bad inputs, tried on a real worker."""

from collections.abc import Iterator

import pytest

from tests.wire.backend import Backend
from tests.wire.bad_inputs import CASES, DOCUMENT, LIMITS, document
from tests.wire.client import ClosedError
from tests.wire.gateway import Gateway, decoded, infer, pool, route, running, until


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    """A backend that answers all it gets."""
    with Backend("a") as backend:
        yield backend


@pytest.fixture(scope="module")
def gateway(backend: Backend) -> Iterator[Gateway]:
    """A worker with the table's limits; in the end its memory and descriptors are what they were."""
    with running((route(),), (pool(backend.url, max_idle=4),), LIMITS) as gateway:
        with gateway.connect() as wire:
            wire.send(infer())
            wire.answer()
        before, descriptors = gateway.rss(), gateway.descriptors()
        yield gateway
        gateway.settle()
        assert gateway.rss() - before < 40 << 20
        assert gateway.descriptors() <= descriptors + 8


@pytest.mark.parametrize("name", CASES)
def test_bad_input(gateway: Gateway, backend: Backend, name: str) -> None:
    """It gets exactly the answers of the table, no request more reaches the backend, and the next client is served."""
    case = CASES[name]
    backend.seen.clear()
    data = case.bytes()
    method = data.split(b" ")[0].decode("latin-1")
    with gateway.connect(timeout_s=6) as wire:
        wire.send(data)
        for i, status in enumerate(case.answers):
            answer = wire.answer(method if i == 0 and method in {"GET", "HEAD", "POST"} else "POST")
            assert answer.status == status
            if status >= 400 and method != "HEAD":
                assert decoded(answer.body)["error"]
            assert (answer.headers.get("connection") == "close") == (case.closes and i == len(case.answers) - 1)
        if case.closes:
            assert wire.end() == "eof"
        else:
            wire.send(infer(test_id="same connection"))
            assert decoded(wire.answer().body)["id"] == "same connection"
    with gateway.connect() as wire:
        wire.send(infer(test_id="next"))
        assert decoded(wire.answer().body)["id"] == "next"
    wanted = case.upstream + 1 + (not case.closes)
    if case.upstream:  # an interrupted one is recorded when the backend notices
        until(lambda: len(backend.seen) >= wanted, "the backend saw it")
    assert len(backend.seen) == wanted


def test_nothing_smuggled_is_forwarded(gateway: Gateway, backend: Backend) -> None:
    """What reaches a backend has one length, one Host of its own and no hop-by-hop field."""
    fields = b"Connection: x-private, keep-alive\r\nx-private: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nx-sluice-a: 1\r\n"
    with gateway.connect() as wire:
        wire.send(infer(extra=fields + b"Proxy-Connection: close\r\nx-public: 1\r\n"))
        assert wire.answer().status == 200
    headers = backend.seen[-1].headers
    assert headers["host"] == f"127.0.0.1:{backend.port}"
    assert headers["x-public"] == "1"
    gone = {"connection", "x-private", "keep-alive", "te", "proxy-connection", "x-sluice-a", "transfer-encoding"}
    assert not gone & headers.keys()


def test_client_that_closes_early_gets_nothing(gateway: Gateway) -> None:
    """A half-closed connection is taken as gone."""
    with gateway.connect() as wire:
        wire.send(infer()[:-1])
        wire.socket.shutdown(1)
        with pytest.raises(ClosedError):
            wire.answer()


def test_document_is_current() -> None:
    """docs/bad-inputs.md says what the table says."""
    assert DOCUMENT.read_text(encoding="utf-8").splitlines() == list(document())
