"""A scripted V2 server: answers at once, or slowly, with errors, or with one stall that is known to the microsecond.

It shows what a load test reports when the truth is known; it computes nothing.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Final

_OUTPUT: Final = b'{"name":"y","datatype":"FP32","shape":[1],"data":[0]}'
_ANSWER: Final = b'{"model_name":"stub","model_version":"1","outputs":[' + _OUTPUT + b"]}"
_ERROR: Final = b'{"error":"scripted failure"}'


@dataclass(frozen=True, slots=True)
class Script:
    """How the stub behaves.

    From `stall_at_s` after the first request, for `stall_s`, it answers nothing; what waits is answered afterwards.
    `fail_share` of requests get status 503. `variants` is a share for each name put into `x-sluice-variant`.
    """

    latency_s: float = 0.0
    stall_at_s: float = 0.0
    stall_s: float = 0.0
    fail_share: float = 0.0
    variants: tuple[tuple[str, float], ...] = ()
    seed: int = 0


class Stub:
    """Serves a script on a loopback port; `seen` counts inference requests, and every GET answers with it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._rng = random.Random(script.seed)
        self._first: float | None = None
        self.seen = 0

    async def start(self, port: int = 0) -> int:
        """Listen; returns the port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=1 << 20, backlog=1024)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *fields = head.split(b"\r\n")
                headers = dict(f.lower().split(b": ", 1) for f in fields if b": " in f)
                await reader.readexactly(int(headers.get(b"content-length", b"0")))
                counted = b'{"seen":%d}' % self.seen
                writer.write(await self._answer() if line.startswith(b"POST") else _response(200, counted))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self) -> bytes:
        script, loop = self._script, asyncio.get_running_loop()
        now = loop.time()
        self.seen += 1
        if self._first is None:
            self._first = now
        wait = script.latency_s
        since = now - self._first
        if script.stall_at_s <= since < script.stall_at_s + script.stall_s:
            wait += script.stall_at_s + script.stall_s - since
        if wait:
            await asyncio.sleep(wait)
        if self._rng.random() < script.fail_share:
            return _response(503, _ERROR)
        return _response(200, _ANSWER, self._variant())

    def _variant(self) -> str:
        if not self._script.variants:
            return ""
        names, shares = zip(*self._script.variants, strict=True)
        return str(self._rng.choices(names, shares)[0])


def _response(status: int, body: bytes, variant: str = "") -> bytes:
    extra = f"x-sluice-variant: {variant}\r\n" if variant else ""
    reason = "OK" if status == 200 else "Service Unavailable"
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body
