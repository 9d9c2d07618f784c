"""What is fuzzed, and what must hold for every input: each target raises an exception on a fault.

Targets take bytes and a source of chance for where to cut them. Two oracles: the same input in other pieces, and h11,
which shares no code with the gateway; whatever the gateway accepts, h11 must read in the same way.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice

import h11
import msgspec

from gateway.config import Limits
from gateway.core.v2 import METHODS, parse_target
from gateway.core.v2body import sequence_of, with_queue_timeout
from gateway.errors import Fault
from gateway.http.chunked import ChunkedDecoder, ChunkError
from gateway.http.head import Heads, RequestHead, parse_request, parse_response
from gateway.messages import Frames, decode_from_worker, decode_to_worker
from tests.wire.memory import Served, cut, receive, serve

LIMITS = Limits(stream_above_bytes=64, max_body_bytes=4096, max_head_bytes=4096)
HEADS = Heads(LIMITS)
# h11 refuses heads above this only when they are incomplete, so it never does here.
_ROOM = 1 << 20


def _pieces(data: bytes, chance: random.Random) -> list[bytes]:
    return cut(data, [chance.randrange(len(data) + 1) for _ in range(chance.randrange(6))]) if data else []


def connection(data: bytes, chance: random.Random) -> None:
    """A client's whole connection: pieces change nothing, answers are valid HTTP, h11 reads the same requests."""
    whole = serve([data] if data else [], LIMITS)
    parts = serve(_pieces(data, chance), LIMITS, at_once=chance.random() < 0.5)
    assert parts == whole, f"cut differently: {whole} {parts}"
    assert len(whole.refused) <= 1
    _check_answers(whole)
    oracle = tuple(islice(_h11_requests(data), len(whole.requests)))
    assert whole.requests == oracle, f"the gateway reads {whole.requests}, h11 {oracle}"


def _check_answers(served: Served) -> None:
    """Each whole request has one answer, a refusal one more, and all of them parse."""
    data = served.answers
    statuses = []
    methods = [method for method, _, _ in served.requests]
    for i in range(len(methods) + len(served.refused) + 1):
        if not data:
            break
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ROOM)
        # To h11 a 2xx to CONNECT is the end of HTTP; the data plane answers that method with 405.
        method = methods[i] if i < len(methods) and methods[i] != b"CONNECT" else b"POST"
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(data)
        while (event := parser.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                statuses.append(event.status_code)
            if isinstance(event, h11.EndOfMessage):
                break
        else:
            return  # a HEAD whose request never became complete, and its refusal
        data = parser.trailing_data[0]
    assert not data
    assert len(statuses) >= len(methods)


def _h11_requests(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The requests h11 sees, with absolute targets reduced to paths; ends where h11 does."""
    while True:
        while data.startswith(b"\r\n"):  # RFC 9112 section 2.2; h11 skips none
            data = data[2:]
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_ROOM)
        parser.receive_data(data)
        body = b""
        try:
            event = parser.next_event()
            if not isinstance(event, h11.Request):
                return
            while not isinstance(part := parser.next_event(), h11.EndOfMessage):
                if not isinstance(part, h11.Data):
                    return
                body += part.data
        except h11.RemoteProtocolError:
            return
        target = event.target
        if not target.startswith(b"/"):
            target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
        yield event.method, target, body
        data = parser.trailing_data[0]


def request_head(data: bytes, chance: random.Random) -> None:
    """One head: refused with a 4xx or 5xx, or every accepted one is accepted by h11 with the same framing."""
    head = parse_request(data, LIMITS)
    again = HEADS.request(data)
    assert type(again) is type(head)
    if isinstance(again, RequestHead) and isinstance(head, RequestHead):
        assert (again.fields, again.request_id, again.count) == (head.fields, head.request_id, head.count)
    if isinstance(head, Fault):
        assert 400 <= head.status <= 505
        return
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_ROOM)
    parser.receive_data(data)
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == head.method
    assert event.http_version == (b"1.1" if head.http11 else b"1.0")
    fields = dict(event.headers)
    assert (b"transfer-encoding" in fields) == head.chunked
    assert int(fields.get(b"content-length", -1)) == head.content_length
    assert head.header_length < 1 << 31
    target = parse_target(head.target)
    if target is not None:
        assert target.endpoint in METHODS


def backend_answer(data: bytes, chance: random.Random) -> None:
    """A backend's answer: pieces change nothing, and one that h11 reads to its end has the same body."""
    head_only = chance.random() < 0.1
    whole = receive([data] if data else [], head_request=head_only)
    parts = receive(_pieces(data, chance), head_request=head_only)
    assert (parts.status, parts.ended) == (whole.status, whole.ended), (whole, parts)
    assert parts.released <= 1
    if whole.ended != "whole":
        assert parts.body.startswith(whole.body)
        return
    assert parts.body == whole.body
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ROOM)
    parser.send(h11.Request(method="HEAD" if head_only else "GET", target="/", headers=[("Host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    parser.receive_data(b"")
    status, body = 0, b""
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
    assert (status, body) == (whole.status, bytes(whole.body))


def response_head(data: bytes, chance: random.Random) -> None:
    """One head of a backend: a fault, or lines that can be written again without changing their meaning."""
    head = parse_response(data)
    if isinstance(head, Fault):
        assert head.status == 502
        return
    again = parse_response(head.block + b"\r\n")
    assert not isinstance(again, Fault)
    assert again.block == head.block
    assert not {b"content-length", b"transfer-encoding", b"connection", b"upgrade"} & again.fields.keys()


def chunks(data: bytes, chance: random.Random) -> None:
    """Chunked coding: pieces change nothing, and whatever is decoded h11 decodes alike."""
    whole, parts = _decode([data]), _decode(_pieces(data, chance))
    assert parts == whole
    if whole is not None and whole[1]:
        requests = list(_h11_requests(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + data))
        assert requests
        assert requests[0][2] == whole[0]


def _decode(pieces: list[bytes]) -> tuple[bytes, bool] | None:
    decoder, body = ChunkedDecoder(), b""
    try:
        for piece in pieces:
            body += b"".join(decoder.feed(piece))
            if decoder.done:
                return body, True
    except ChunkError:
        return None
    return body, False


def target_path(data: bytes, chance: random.Random) -> None:
    """A target names a known endpoint or none; what it names stays inside its path."""
    found = parse_target(data)
    if found is not None:
        assert data.startswith(b"/v2")
        assert found.path + found.query == data
        assert b"?" not in found.path


def json_body(data: bytes, chance: random.Random) -> None:
    """A request's JSON: its sequence and time-out are read, or it is left alone."""
    sequence_of(data)
    changed = with_queue_timeout(data, 1000)
    if changed != data:
        value = msgspec.json.decode(changed, type=_Timed)
        assert 0 < value.parameters.timeout <= 1000


class _Parameters(msgspec.Struct):
    timeout: int


class _Timed(msgspec.Struct):
    parameters: _Parameters


def frames(data: bytes, chance: random.Random) -> None:
    """The line between workers and controller: any pieces, messages, or what readers expect for none."""
    whole, parts = _frames([data]), _frames(_pieces(data, chance))
    assert parts == whole
    for body in whole[:4]:
        for decode in (decode_from_worker, decode_to_worker):
            try:
                decode(body)
            except (msgspec.MsgspecError, ValueError):
                continue


def _frames(pieces: list[bytes]) -> list[bytes]:
    splitter, bodies = Frames(), []
    try:
        for piece in pieces:
            bodies += splitter.feed(piece)
    except ValueError:
        bodies.append(b"too large")
    return bodies


Target = Callable[[bytes, random.Random], None]
TARGETS: dict[str, Target] = {
    "connection": connection,
    "request_head": request_head,
    "backend_answer": backend_answer,
    "response_head": response_head,
    "chunks": chunks,
    "target_path": target_path,
    "json_body": json_body,
    "frames": frames,
}
