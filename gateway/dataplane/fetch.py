"""One small request to a backend from a coroutine: probes, metadata, configuration, administration."""

import asyncio
from typing import NamedTuple

from gateway.dataplane.pool import BackendRuntime
from gateway.errors import Fault, UnreachableError
from gateway.http.client import UpstreamConnection
from gateway.http.head import ResponseHead


class Reply(NamedTuple):
    """A backend's whole answer."""

    status: int
    content_type: bytes
    body: bytes


class _Collector:
    """Gathers one response within a bound and hands it to a future."""

    def __init__(self, future: asyncio.Future[Reply], max_bytes: int) -> None:
        self._future = future
        self._left = max_bytes
        self._head: ResponseHead | None = None
        self._parts: list[bytes] = []

    def response_complete(self, head: ResponseHead, body: bytes) -> None:
        self._done(head, body)

    def response_start(self, head: ResponseHead) -> None:
        self._head = head

    def response_data(self, data: bytes | memoryview) -> None:
        self._left -= len(data)
        if self._left >= 0:
            self._parts.append(bytes(data))
        elif not self._future.done():
            self._future.set_exception(UnreachableError("the backend's answer is too large"))

    def response_end(self) -> None:
        assert self._head is not None
        self._done(self._head, b"".join(self._parts))

    def response_failed(self, fault: Fault) -> None:
        if not self._future.done():
            self._future.set_exception(UnreachableError(fault.text))

    def upstream_paused(self, paused: bool) -> None:
        """Requests are small."""

    def _done(self, head: ResponseHead, body: bytes) -> None:
        if not self._future.done():
            content_type = head.fields.get(b"content-type", b"application/json")
            self._future.set_result(Reply(head.status, content_type, body))


async def fetch(
    backend: BackendRuntime,
    method: bytes,
    path: bytes,
    *,
    timeout_s: float,
    body: bytes = b"",
    max_bytes: int = 16 << 20,
) -> Reply:
    """Sends a request and returns the whole answer.

    Raises:
        UnreachableError: no connection, no valid answer, too large an answer, or none within `timeout_s`.
    """
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    collector = _Collector(future, max_bytes)
    upstream: UpstreamConnection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            upstream = backend.take_idle() or await backend.connect()
            length = b"Content-Length: %d\r\n" % len(body) if body or method == b"POST" else b""
            upstream.send(
                collector,
                b"".join((method, b" ", path, b" HTTP/1.1\r\n", backend.host_line, length, b"\r\n", body)),
                True,
                method == b"HEAD",
            )
            return await future
    except TimeoutError:
        raise UnreachableError(f"{backend.url} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise UnreachableError(f"{backend.url}: {error}") from None
    finally:
        if upstream is not None and upstream.consumer is collector:  # else it is idle, or another's already
            upstream.abort()
