"""Remembered heads: what is shared between requests of one client, and that sharing changes nothing."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import Limits
from gateway.core.route import Variant
from gateway.errors import Fault
from gateway.http.head import VARYING, Heads, RequestHead, parse_request
from tests.wire.backend import Backend
from tests.wire.gateway import Gateway, infer, pool, route, running

LIMITS = Limits(max_headers=8)
TWO = (Variant(name="a", model="model", weight=50.0), Variant(name="b", model="model", weight=50.0))
NAMES = [
    b"x-request-id",
    b"X-Request-ID",
    b"traceparent",
    b"TraceState",
    b"Connection",
    b"Content-Length",
    b"x-user",
    b"TE",
    b"Host",
]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
VALUES = [
    b"a", b"b-1", PARENT.encode(), b"two words", b"", b" ", b"3", b"close", b"x-request-id", b"traceparent, x-user",
    b"\xff", b"k=v,n=w",
]  # fmt: skip
LINES = st.tuples(st.sampled_from(NAMES), st.sampled_from([b": ", b":", b":  "]), st.sampled_from(VALUES))


def summary(head: RequestHead | Fault) -> Any:
    """Everything that a head says, with the fields that are forwarded in any order."""
    if isinstance(head, Fault):
        return head
    lines = [b"%b: %b" % (name.lower(), value) for name, value in head.headers if name.lower() != b"x-request-id"]
    passing = head.passing.split(b"\r\n")[:-1]
    return (
        head.method, head.target, head.http11, head.keep_alive, head.content_length, head.chunked, head.expects,
        head.fields, head.header_length, head.request_id, head.count, sorted(lines + passing),
    )  # fmt: skip


@given(st.lists(st.lists(LINES, max_size=7), min_size=1, max_size=6))
@example([[(b"x-request-id", b":", b"a"), (b"traceparent", b": ", b"a")]])  # only one of the two can be cut out
def test_a_remembered_head_says_what_a_parsed_one_says(requests: list[list[tuple[bytes, bytes, bytes]]]) -> None:
    """Whatever came before, a head is read as if it were the first, and refused for the same reason."""
    heads = Heads(LIMITS)
    for lines in requests * 2:
        fields = b"".join(b"%b%b%b\r\n" % line for line in lines)
        data = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: gateway\r\n%b\r\n" % fields
        found = heads.requests.get(data) or heads.request(data)
        assert summary(found) == summary(parse_request(data, LIMITS))


def test_ids_do_not_fill_the_memory() -> None:
    """A thousand requests that differ in their ids only are one remembered head."""
    heads = Heads(Limits())
    for number in range(1000):
        head = heads.request(
            infer(extra=b"x-request-id: id-%d\r\ntraceparent: 00-%032x-b7ad6b7169203331-01\r\n" % (number, number))[:-2]
        )
        assert isinstance(head, RequestHead)
        assert head.request_id == b"id-%d" % number
        assert head.shared is not None
    assert len(heads.requests) == 1
    assert VARYING.isdisjoint(next(iter(heads.requests.values())).fields)


def test_each_request_keeps_its_own_ids() -> None:
    """Request ids come back to whom they belong, trace fields reach the backend, in small and in long requests."""
    with Backend("a") as backend, running((route(),), (pool(backend.url),)) as gateway, gateway.connect() as wire:
        for number, size in enumerate([2, 2, 300_000, 2, 300_000]):
            fields = {
                "x-request-id": f"mine-{number}",
                "traceparent": PARENT[:-1] + str(number),
                "tracestate": f"v={number}",
            }
            extra = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            wire.send(infer(b"x" * size, extra=extra.encode()))
            assert wire.answer().headers["x-request-id"] == f"mine-{number}"
            assert fields.items() <= backend.seen[-1].headers.items()


def test_a_route_may_be_sticky_by_request_id() -> None:
    """Where an id decides the variant, requests that differ in it only are not decided alike."""
    with (
        Backend("a") as backend,
        running((route(variants=TWO, sticky_header="x-request-id"),), (pool(backend.url),)) as gateway,
    ):
        with gateway.connect() as wire:  # one without an id comes first, and is drawn
            wire.send(infer())
            assert wire.answer().status == 200
        found = [served(gateway, f"key-{number % 40}") for number in range(80)]
        assert found[:40] == found[40:]
        assert set(found) == {"a", "b"}


def served(gateway: Gateway, request_id: str) -> str:
    """Which variant a request with that id gets."""
    with gateway.connect() as wire:
        wire.send(infer(extra=f"x-request-id: {request_id}\r\n".encode()))
        return wire.answer().headers["x-sluice-variant"]
