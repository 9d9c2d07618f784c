"""A scripted backend with a capacity: so many requests at once, each for so long, the others in a line as in Triton.

It runs as a process of its own, `python -m loadtest.resilience.backend`, prints its port and ends with its standard
input. `POST /control/MODE` changes what it does with inferences from the next one on.
"""

import asyncio
import re
import sys
import threading
from collections import deque
from enum import StrEnum
from typing import Annotated, Final

import typer

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HUGE: Final = 1 << 30
_PIECE: Final = bytes(256 << 10)
_CHUNK: Final = b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE)
_OUTPUT: Final = b'{"name":"y","datatype":"FP32","shape":[1,2],"data":[0,1]}'
_ANSWER: Final = b'{"model_name":"m","model_version":"1","outputs":[' + _OUTPUT + b"]}"


class Mode(StrEnum):
    """What an inference meets."""

    SERVE = "serve"
    FAIL = "fail"  # 500 at once
    HANG = "hang"  # no answer, ever
    HUGE = "huge"  # 1 GB, its length announced in turn by Content-Length and by chunks


class Engine:
    """What the connections of one backend share.

    Attributes:
        mode: in force now.
    """

    def __init__(self, name: str, slots: int, service_s: float) -> None:
        self.mode = Mode.SERVE
        self._head = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nx-backend: " + name.encode() + b"\r\n"
        self._free = slots
        self._service_s = service_s
        self._line: deque[Connection] = deque()
        self._huge = 0

    def infer(self, connection: "Connection") -> None:
        """One inference has arrived whole."""
        if self.mode is Mode.HANG:
            return
        if self.mode is Mode.FAIL:
            connection.answer(self.response(500, b'{"error":"scripted failure"}'))
        elif self.mode is Mode.HUGE:
            self._huge += 1
            connection.pour(chunked=self._huge % 2 == 0)
        elif not self._service_s:
            connection.answer(self.response(200, _ANSWER))
        elif self._free:
            self._begin(connection)
        else:
            self._line.append(connection)

    def _begin(self, connection: "Connection") -> None:
        self._free -= 1
        asyncio.get_running_loop().call_later(self._service_s, self._end, connection)

    def _end(self, connection: "Connection") -> None:
        self._free += 1
        connection.answer(self.response(200, _ANSWER))
        while self._line and self._free:
            self._begin(self._line.popleft())

    def response(self, status: int, body: bytes) -> bytes:
        """A whole answer."""
        return self._head % status + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

    def begin_huge(self, *, chunked: bool) -> bytes:
        """The head of an answer of 1 GB."""
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % _HUGE
        return self._head % 200 + framing + b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client of the backend; requests are answered one after another."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._writable = asyncio.Event()
        self._pouring: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self._writable.set()

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n") + 4) >= 4:
            found = _LENGTH.search(self._buffer, 0, end)
            stop = end + (int(found[1]) if found else 0)
            if len(self._buffer) < stop:
                return
            line = self._buffer[: self._buffer.find(b"\r\n")]
            self._buffer = self._buffer[stop:]
            self._request(line)

    def _request(self, line: bytes) -> None:
        method, target, _ = line.split(b" ")
        if target.startswith(b"/control/"):
            self._engine.mode = Mode(target.rpartition(b"/")[2].decode())
            self.answer(self._engine.response(200, b"{}"))
        elif method == b"POST" and target.endswith(b"/infer"):
            self._engine.infer(self)
        else:
            self.answer(self._engine.response(200, b"{}"))

    def answer(self, data: bytes) -> None:
        """Sends bytes, unless the client is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def pour(self, *, chunked: bool) -> None:
        """Sends 1 GB as fast as it is taken."""
        self._pouring = asyncio.get_running_loop().create_task(self._pour(chunked))

    async def _pour(self, chunked: bool) -> None:
        self.answer(self._engine.begin_huge(chunked=chunked))
        for _ in range(_HUGE // len(_PIECE)):
            await self._writable.wait()
            if self._transport is None or self._transport.is_closing():
                return
            self._transport.write(_CHUNK if chunked else _PIECE)
        self.answer(b"0\r\n\r\n" if chunked else b"")


async def _serve(engine: Engine, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(engine), "127.0.0.1", port, backlog=4096)
    typer.echo(server.sockets[0].getsockname()[1])
    over = asyncio.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=watch, daemon=True).start()
    await over.wait()


def main(
    *,
    name: Annotated[str, typer.Option(help="Told in the header x-backend.")] = "backend",
    port: Annotated[int, typer.Option(help="0 picks a free one.")] = 0,
    slots: Annotated[int, typer.Option(min=1, help="Inferences at once.")] = 1,
    service_ms: Annotated[float, typer.Option(min=0, help="How long each takes.")] = 0.0,
    mode: Annotated[Mode, typer.Option(help="What an inference meets at first.")] = Mode.SERVE,
) -> None:
    """A backend for trying out what a gateway does about it."""
    engine = Engine(name, slots, service_ms / 1e3)
    engine.mode = mode
    asyncio.run(_serve(engine, port))


if __name__ == "__main__":
    typer.run(main)
