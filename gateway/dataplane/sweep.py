"""Looks after many connections without holding up any of them."""

import asyncio
from time import perf_counter

from gateway.http.connection import ClientConnection

_AT_ONCE = 200


def check(loop: asyncio.AbstractEventLoop, left: list[ClientConnection]) -> None:
    """Enforces the limits on slow clients: on some now, on the others after what has arrived meanwhile."""
    now = perf_counter()
    for connection in left[-_AT_ONCE:]:
        connection.check(now)
    del left[-_AT_ONCE:]
    if left:
        loop.call_soon(check, loop, left)
