"""HTTP/1.1 as clients may speak it: pipelining, chunks, HEAD, HTTP/1.0, Expect, keep-alive."""

import gzip
import hashlib
import itertools

import pytest

from tests.wire.backend import Backend, Script, pattern
from tests.wire.client import ClosedError
from tests.wire.gateway import Gateway, decoded, infer, until


def test_pipelined_answers_keep_their_order(gateway: Gateway, backend: Backend) -> None:
    """Fifty requests in one segment, the slow ones first, are answered one by one in order."""
    delays = [0.05 if i % 10 == 0 else 0.0 for i in range(50)]
    with gateway.connect() as wire:
        sent = [infer(test_id=str(i), extra=Script(delay_s=delay).header()) for i, delay in enumerate(delays)]
        wire.send(b"".join(sent))
        assert [decoded(wire.answer().body)["id"] for _ in delays] == [str(i) for i in range(50)]


def test_pipelined_mix(gateway: Gateway) -> None:
    """Local answers, faults, long and short bodies and chunked ones may follow one another in any order."""
    long = infer(b"x" * 100_000, test_id="long")
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nx-test-id: chunked\r\n\r\n"
    chunked = head + b"a\r\n0123456789\r\n0\r\n\r\n"
    kinds = [
        (b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n", "GET", ""),
        (infer(test_id="short"), "POST", "short"),
        (b"HEAD /v2/models/none HTTP/1.1\r\nHost: g\r\n\r\n", "HEAD", None),
        (long, "POST", "long"),
        (chunked, "POST", "chunked"),
        (infer(name="none"), "POST", None),
    ]
    for order in itertools.permutations(kinds, 4):
        with gateway.connect() as wire:
            wire.send(b"".join(data for data, _, _ in order))
            for _, method, expected in order:
                answer = wire.answer(method)
                if expected is None:
                    assert answer.status == 404
                else:
                    assert answer.status == 200
                    assert not expected or decoded(answer.body)["id"] == expected


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0(gateway: Gateway, connection: bytes) -> None:
    """Without keep-alive the connection ends with the answer; with it, the answer says so and another may follow."""
    with gateway.connect() as wire:
        for _ in range(3 if connection else 1):
            wire.send(infer(version=b"1.0", extra=connection))
            answer = wire.answer()
            assert answer.status == 200
            assert answer.headers["connection"] == ("keep-alive" if connection else "close")
        if not connection:
            assert wire.end() == "eof"


def test_http_1_0_never_gets_chunks(gateway: Gateway) -> None:
    """An answer of unknown length ends with the connection instead; a cut-off one ends with a reset."""
    script = Script(size=50_000, framing="chunked", chunk=999)
    with gateway.connect() as wire:
        wire.send(infer(version=b"1.0", extra=script.header() + b"Connection: keep-alive\r\n"))
        answer = wire.answer()
        assert answer.body == pattern(0, 50_000)
        assert "transfer-encoding" not in answer.headers
        assert wire.end() == "eof"
    script.cut, script.then = 20_000, "close"
    with gateway.connect() as wire:
        wire.send(infer(version=b"1.0", extra=script.header()))
        with pytest.raises(ClosedError, match="reset"):
            wire.answer()


def test_close_is_honoured(gateway: Gateway) -> None:
    """After `Connection: close` there is one answer and an orderly end, whatever follows."""
    with gateway.connect() as wire:
        wire.send(infer(test_id="last", extra=b"Connection: close\r\n") + infer(test_id="behind"))
        answer = wire.answer()
        assert decoded(answer.body)["id"] == "last"
        assert answer.headers["connection"] == "close"
        with pytest.raises(ClosedError):
            wire.answer()


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 65_537, 3_000_000])
@pytest.mark.parametrize("chunk", [0, 1000, 70_000])
def test_bodies_arrive_unchanged(gateway: Gateway, backend: Backend, size: int, chunk: int) -> None:
    """Bodies on both sides of every threshold, with a length or in chunks, reach the backend bit for bit."""
    body = pattern(7, size)
    if chunk:
        pieces = [body[at : at + chunk] for at in range(0, size, chunk)]
        coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        data = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n" + coded
    else:
        data = infer(body)
    with gateway.connect() as wire:
        wire.send(data)
        assert decoded(wire.answer().body)["digest"] == hashlib.sha1(body, usedforsecurity=False).hexdigest()
    headers = backend.seen[-1].headers
    assert ("content-length" in headers) != ("transfer-encoding" in headers)


def test_encodings_pass_untouched(gateway: Gateway, backend: Backend) -> None:
    """Compressed bodies and the wish for compressed answers are the client's and Triton's affair."""
    body = gzip.compress(b"{}" * 1000)
    fields = b"Content-Encoding: gzip\r\nAccept-Encoding: deflate\r\nInference-Header-Content-Length: 2000\r\n"
    with gateway.connect() as wire:
        wire.send(infer(body, extra=fields + Script(headers=["Content-Encoding: deflate"], size=10).header()))
        answer = wire.answer()
    assert answer.headers["content-encoding"] == "deflate"
    assert answer.body == pattern(0, 10)
    headers = backend.seen[-1].headers
    assert headers["content-encoding"] == "gzip"
    assert headers["accept-encoding"] == "deflate"
    assert headers["inference-header-content-length"] == "2000"


def test_expect_continue(gateway: Gateway, backend: Backend) -> None:
    """A client that waits is told to go on before it sends, and refused before it sends where it will be anyway."""
    with gateway.connect() as wire:
        wire.send(infer(b"x" * 10, test_id="waited", extra=b"Expect: 100-continue\r\n")[:-10])
        assert wire.socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(b"x" * 10)
        assert decoded(wire.answer().body)["id"] == "waited"
        wire.send(infer(b"x" * 100_000, test_id="large", extra=b"Expect: 100-continue\r\n")[:-100_000])
        assert wire.socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(b"x" * 100_000)
        assert decoded(wire.answer().body)["length"] == 100_000
        wire.send(infer(b"x", name="none", extra=b"Expect: 100-continue\r\n")[:-1])
        answer = wire.answer()
        assert answer.status == 404
        assert not answer.interim
        assert wire.end() == "eof"
    assert "expect" not in backend.seen[0].headers


def test_head_of_local_answers(gateway: Gateway) -> None:
    """HEAD tells what GET would, without a body."""
    for path in (b"/v2", b"/v2/health/live", b"/v2/health/ready", b"/v2/models/m", b"/v2/models/m/config", b"/v2/x"):
        with gateway.connect() as wire:
            wire.send(b"GET " + path + b" HTTP/1.1\r\nHost: g\r\n\r\n")
            full = wire.answer("GET")
            wire.send(b"HEAD " + path + b" HTTP/1.1\r\nHost: g\r\n\r\n")
            head = wire.answer("HEAD")
            assert (head.status, head.body) == (full.status, b"")
            assert head.headers.get("content-length") == full.headers.get("content-length")


def test_many_clients_at_once(gateway: Gateway, backend: Backend) -> None:
    """Two hundred open connections, each with a request under way, all get their own answers."""
    wires = [gateway.connect() for _ in range(200)]
    for i, wire in enumerate(wires):
        wire.send(infer(test_id=str(i), extra=Script(hold=True).header()))
    until(lambda: backend.held == 200, "all are at the backend")
    assert gateway.report().in_flight == 200
    backend.release()
    for i, wire in enumerate(wires):
        assert decoded(wire.answer().body)["id"] == str(i)
        wire.socket.close()


def test_request_ids(gateway: Gateway, backend: Backend) -> None:
    """A well-formed id is kept to the backend and back, any other is replaced by one of the gateway's."""
    with gateway.connect() as wire:
        for sent, kept in ((b"abc-123", True), (b"", False), (b"x" * 200, False), (b"a b", False), (b"\xe9", False)):
            wire.send(infer(extra=b"x-request-id: " + sent + b"\r\n"))
            answer = wire.answer()
            told = answer.headers["x-request-id"]
            assert (told == sent.decode("latin-1")) is kept
            assert backend.seen[-1].headers["x-request-id"] == told
