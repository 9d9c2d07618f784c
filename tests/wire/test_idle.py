"""Idle connections and requests that arrive just when they are to be closed."""

import asyncio
import socket
from collections.abc import Callable
from time import perf_counter

import pytest

from gateway.config import Limits
from gateway.http.server import ServerConnection
from tests.wire.memory import EchoService

_REQUEST = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"
_LIMITS = Limits(idle_timeout_s=60.0)


async def _meet(service: EchoService, between: Callable[[ServerConnection, socket.socket], None]) -> bytes:
    """Lets something happen to an idle connection between two turns of the loop; what its client then receives."""
    loop = asyncio.get_running_loop()
    client, server = socket.socketpair()
    for one in (client, server):
        one.setblocking(False)
    with client:
        transport, connection = await loop.connect_accepted_socket(lambda: ServerConnection(service), server)
        between(connection, client)
        received = await asyncio.wait_for(loop.sock_recv(client, 4096), 10)
        transport.abort()
        return received


@pytest.mark.parametrize(("draining", "later_s"), [(False, 61.0), (True, 2.0)])
def test_a_request_that_has_arrived_is_answered(draining: bool, later_s: float) -> None:
    """The clock says that the connection was idle for too long, the kernel says that a request is there: it counts."""
    service = EchoService(_LIMITS)
    service.draining = draining

    def both_at_once(connection: ServerConnection, client: socket.socket) -> None:
        client.send(_REQUEST)
        connection.check(perf_counter() + later_s)

    received = asyncio.run(_meet(service, both_at_once))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert (b"Connection: close" in received) is draining


@pytest.mark.parametrize(("draining", "later_s"), [(False, 61.0), (True, 2.0)])
def test_a_silent_connection_is_closed(draining: bool, later_s: float) -> None:
    """Without a request it ends in order."""
    service = EchoService(_LIMITS)
    service.draining = draining
    assert asyncio.run(_meet(service, lambda connection, _: connection.check(perf_counter() + later_s))) == b""


@pytest.mark.parametrize(("draining", "later_s"), [(False, 59.0), (True, 0.9)])
def test_a_connection_has_its_grace(draining: bool, later_s: float) -> None:
    """Before its time is over it takes another request."""
    service = EchoService(_LIMITS)
    service.draining = draining

    def check_then_ask(connection: ServerConnection, client: socket.socket) -> None:
        connection.check(connection.since + later_s)
        client.send(_REQUEST)

    assert asyncio.run(_meet(service, check_then_ask)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("piece", "rest"),
    [(_REQUEST[:20], _REQUEST[20:]), (_REQUEST[:-1], _REQUEST[-1:])],
    ids=["half a head", "half a body"],
)
def test_pieces_are_counted_until_they_are_whole(piece: bytes, rest: bytes) -> None:
    """Bytes of an incomplete request count against the worker's bound, and no longer than it is incomplete."""
    service = EchoService(_LIMITS)
    seen = []

    def in_two(connection: ServerConnection, client: socket.socket) -> None:
        connection.data_received(piece)
        seen.append(service.partial.size)
        connection.data_received(rest)
        seen.append(service.partial.size)

    assert asyncio.run(_meet(service, in_two)).startswith(b"HTTP/1.1 200 ")
    assert 0 < seen[0] <= len(piece)
    assert seen[1] == 0


@pytest.mark.parametrize("piece", [_REQUEST[:20], _REQUEST[:-1]], ids=["half a head", "half a body"])
def test_pieces_beyond_the_bound_are_refused(piece: bytes) -> None:
    """Nobody is read on whose pieces find no room; a request that comes whole needs none."""
    service = EchoService(_LIMITS)
    service.partial.size = service.partial.bound

    def in_pieces(connection: ServerConnection, client: socket.socket) -> None:
        connection.data_received(piece)

    assert b" 503 " in asyncio.run(_meet(service, in_pieces)).split(b"\r\n")[0]
    assert service.partial.size == service.partial.bound
    answer = asyncio.run(_meet(service, lambda connection, _: connection.data_received(_REQUEST)))
    assert answer.startswith(b"HTTP/1.1 200 ")
