"""A scripted backend: an HTTP server on real sockets that misbehaves exactly as a test asks it to.

What it does with an inference comes from the request's own `x-script` header (JSON of `Script`), from `Backend.queue`
(next requests first), or from `Backend.script`. Everything else (health, metadata) is answered plainly and not
recorded. It runs its own event loop in a thread; attributes may be set from the test's thread at any time.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import msgspec

_PIECE = 1 << 16
_PATTERN = bytes(range(256)) * (_PIECE // 256)


class Script(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What to do with one request, in this order: read, wait, answer, end.

    Attributes:
        read: bytes of the body to read before answering; -1 reads all of it.
        delay_s: time between reading and answering.
        hold: wait until `Backend.release` is called.
        interim: statuses of 1xx responses sent first.
        raw: the whole answer as it goes over the wire (latin-1), instead of what the next fields describe.
        status, headers, body: of the answer; an empty body echoes what the request was (see `Backend`).
        size: a body of that many bytes of a fixed pattern instead.
        framing: how the body's end is marked.
        chunk: size of the pieces the body is sent in.
        drip_s: pause after each piece.
        cut: send only so many bytes of the answer.
        extra: bytes sent behind the answer, in one piece with its end.
        then: keep the connection, close it, reset it, go silent on it, or close it when the next request comes.
    """

    read: int = -1
    delay_s: float = 0.0
    hold: bool = False
    interim: list[int] = []
    raw: str = ""
    status: int = 200
    headers: list[str] = []
    body: str = ""
    size: int = -1
    framing: Literal["length", "chunked", "close"] = "length"
    chunk: int = _PIECE
    drip_s: float = 0.0
    cut: int = -1
    extra: str = ""
    then: Literal["keep", "close", "reset", "hang", "drop_next"] = "keep"

    def header(self) -> bytes:
        """The `x-script` field line that asks for this."""
        return b"x-script: %b\r\n" % json.dumps(msgspec.to_builtins(self)).encode("ascii")


@dataclass(frozen=True, slots=True)
class Seen:
    """One inference as it reached the backend; `complete` means that its whole body was read."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    length: int
    digest: str
    complete: bool

    @property
    def test_id(self) -> str:
        """The id a test put on its request."""
        return self.headers.get("x-test-id", "")


@dataclass
class Backend:
    """One server; `with Backend("a") as backend:` runs it.

    The echoed body is JSON: id (of the header x-test-id), length and digest of the request's body, backend, target.

    Attributes:
        name: told in each echo.
        script: default for requests without one.
        queue: scripts for the next requests, whatever those ask for.
        ready: what health probes are told.
        has_model: what questions after a model are told.
        on_connect: reset new connections at once, never read from them, or serve.
        seen: inferences that arrived, oldest first.
        health_hangs: probes get no answer.
        held: requests that wait for `release`.
    """

    name: str = "backend"
    script: Script = field(default_factory=Script)
    queue: deque[Script] = field(default_factory=deque)
    ready: bool = True
    has_model: bool = True
    on_connect: Literal["serve", "reset", "ignore"] = "serve"
    seen: list[Seen] = field(default_factory=list)
    health_hangs: bool = False
    held: int = 0
    port: int = 0
    connections: int = 0
    accepted: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _listener: socket.socket | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True, name=f"backend-{self.name}")
        self._thread.start()
        assert started.wait(10)
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def listen(self) -> None:
        """Starts to listen, on the former port if there was one."""
        self._call(self._listen())

    def kill(self) -> None:
        """Resets every connection and refuses new ones, as a process that is killed does."""
        self._call(self._kill())

    def reset_all(self) -> None:
        """Resets every connection but goes on listening."""
        self._call(self._reset_all())

    def release(self) -> None:
        """Lets all held requests go on."""
        self._call(self._release())

    def ids(self) -> list[str]:
        """Test ids of the inferences seen."""
        return [seen.test_id for seen in self.seen]

    # the loop's side

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(started.set)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Not asyncio's server: that one loses sockets which it accepted just before it is closed."""
        with contextlib.suppress(BlockingIOError):
            client, _ = listener.accept()
            client.setblocking(False)
            task = self._loop.create_task(self._adopt(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _adopt(self, client: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=client, limit=1 << 20)
        except (OSError, asyncio.CancelledError):
            client.close()
        else:
            await self._serve(reader, writer)

    async def _kill(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        for _ in range(3):  # accepted ones become known a moment later
            await self._reset_all()
            await asyncio.sleep(0.002)

    async def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        self.accepted += 1
        self.connections += 1
        self._writers.add(writer)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.on_connect == "reset":
                _reset(writer)
            elif self.on_connect == "ignore":
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.Event().wait()
            else:
                while await self._one(number, reader, writer):
                    pass
        except (OSError, EOFError, asyncio.CancelledError):  # the last one at the end of the loop
            pass
        finally:
            self.connections -= 1
            self._writers.discard(writer)
            writer.close()

    async def _one(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serves one request; False ends the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rows = head[:-4].split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)}
        if method != "POST":
            return await self._plain(target, writer)
        script = self._script(headers)
        body, complete = bytearray(), False
        try:
            complete = await _read(reader, headers, script.read, body)
        finally:
            digest = hashlib.sha1(body, usedforsecurity=False).hexdigest()
            self.seen.append(Seen(number, method, target, headers, len(body), digest, complete))
        echo = {"id": headers.get("x-test-id", ""), "length": len(body), "digest": digest, "backend": self.name}
        if script.delay_s:
            await asyncio.sleep(script.delay_s)
        if script.hold:
            self.held += 1
            await self._released.wait()
            self.held -= 1
        await self._answer(writer, script, msgspec.json.encode({**echo, "target": target}))
        if script.then == "hang":
            await asyncio.Event().wait()
        if script.then == "reset":
            _reset(writer)
        if script.then == "drop_next":
            await reader.readuntil(b"\r\n\r\n")
        return script.then == "keep" and script.framing != "close"

    def _script(self, headers: dict[str, str]) -> Script:
        with contextlib.suppress(IndexError):
            return self.queue.popleft()
        asked = headers.get("x-script")
        return msgspec.json.decode(asked, type=Script) if asked else self.script

    async def _plain(self, target: str, writer: asyncio.StreamWriter) -> bool:
        if self.health_hangs:
            await asyncio.Event().wait()
        ok = self.ready if target == "/v2/health/ready" else self.has_model or not target.endswith("/ready")
        body = msgspec.json.encode({"name": "model", **self.config})
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (200 if ok else 400, len(body), body))
        await writer.drain()
        return True

    async def _answer(self, writer: asyncio.StreamWriter, script: Script, echo: bytes) -> None:
        for status in script.interim:
            writer.write(b"HTTP/1.1 %d Interim\r\nx-hint: 1\r\n\r\n" % status)
        left = script.cut if script.cut >= 0 else 1 << 62
        pieces = list(_wire(script, echo)) if script.extra else _wire(script, echo)
        if isinstance(pieces, list):
            pieces[-1] += script.extra.encode("latin-1")
        for piece in pieces:
            writer.write(piece[:left])
            left -= len(piece)
            await writer.drain()
            if left <= 0:
                return
            if script.drip_s:
                await asyncio.sleep(script.drip_s)


def _wire(script: Script, echo: bytes) -> Iterator[bytes]:
    """The answer in the pieces it is sent in."""
    if script.raw:
        data = script.raw.encode("latin-1")
        yield from (data[at : at + script.chunk] for at in range(0, len(data), script.chunk))
        return
    body = script.body.encode("latin-1") or echo
    size = script.size if script.size >= 0 else len(body)
    framings = {
        "length": f"Content-Length: {size}",
        "chunked": "Transfer-Encoding: chunked",
        "close": "Connection: close",
    }
    lines = "".join(f"{line}\r\n" for line in (*script.headers, framings[script.framing]))
    head = f"HTTP/1.1 {script.status} Scripted\r\nContent-Type: application/json\r\n{lines}\r\n".encode("latin-1")
    at = 0
    while at < size or head:
        piece = pattern(at, min(script.chunk, size - at)) if script.size >= 0 else body[at : at + script.chunk]
        at += len(piece)
        if script.framing == "chunked" and piece:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        yield head + piece
        head = b""
    if script.framing == "chunked":
        yield b"0\r\n\r\n"


def pattern(at: int, size: int) -> bytes:
    """`size` bytes of the endless pattern that `Script.size` sends, from offset `at`."""
    start = at % 256
    whole = _PATTERN if start + size <= len(_PATTERN) else _PATTERN * (2 + size // len(_PATTERN))
    return whole[start : start + size]


async def _read(reader: asyncio.StreamReader, headers: dict[str, str], want: int, into: bytearray) -> bool:
    """Reads up to `want` bytes of a body (all when negative); True when it was read to its end."""
    if headers.get("transfer-encoding") == "chunked":
        while want < 0 or len(into) < want:
            size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
            into += (await reader.readexactly(size + 2))[:-2]
            if not size:
                return True
        return False
    length = int(headers.get("content-length", 0))
    while len(into) < (length if want < 0 else min(want, length)):
        data = await reader.read(min(_PIECE, length - len(into)))
        if not data:
            raise EOFError
        into += data
    return len(into) == length


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def backends(*names: str) -> Iterator[list[Backend]]:
    """Several at once."""
    with contextlib.ExitStack() as stack:
        make: Callable[[str], Backend] = Backend
        yield [stack.enter_context(make(name)) for name in names]


def until_asked(backend: Backend) -> Iterator[int]:
    """Numbers for requests, eight at least, until chance has picked this backend for one; AssertionError after 100."""
    for number in range(100):
        yield number
        if number >= 7 and backend.seen:
            return
    raise AssertionError(f"none of 100 requests was sent to backend {backend.name}")
