"""Clients that keep sending, each checking that every answer is the answer to its own request.

A `Load` runs on an event loop of its own in a thread. Every inference carries a unique id which the scripted backend
echoes; an answer with any other id is foreign, which must never happen. Some clients leave at random places.
"""

import asyncio
import contextlib
import itertools
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from tests.wire.backend import Script, pattern

_ids = itertools.count()


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        sent: requests whose answer was waited for.
        statuses: whole answers by status.
        foreign: answers to something else, as text; must stay empty.
        broken: requests whose answer did not come whole, by why.
        left: requests given up on purpose, by where.
    """

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        """Whole answers."""
        return self.statuses.total()


class Load:
    """So many connections at once; `with Load(port) as load:` runs it, and stops it at the end.

    Args:
        port: of the gateway.
        clients: connections.
        leave: share of requests that their client gives up on at a random place.
        pause_s: between two requests of a client.
        long: share of requests with long bodies or answers.
        fields: further field lines of each request.
        route: what they ask for.
        keep: share of answers after which a connection is kept.
    """

    def __init__(
        self,
        port: int,
        clients: int = 8,
        *,
        leave: float = 0.0,
        pause_s: float = 0.0,
        long: float = 0.1,
        fields: bytes = b"",
        route: str = "m",
        keep: float = 0.95,
        seed: int = 1,
    ) -> None:
        self.tally = Tally()
        self._port = port
        self._clients = clients
        self._leave = leave
        self._pause_s = pause_s
        self._long = long
        self._fields = fields
        self._route = route
        self._keep = keep
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Tally:
        """Lets the requests under way finish; all that the clients saw."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a request never ended"
        return self.tally

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        while not self._stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
            except OSError as error:
                self.tally.broken[f"connect: {type(error).__name__}"] += 1
                await asyncio.sleep(0.01)
                continue
            with contextlib.suppress(OSError):
                while not self._stop.is_set() and await self._one(reader, writer):
                    await asyncio.sleep(self._pause_s)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether its connection lives on."""
        chance, tally = self._chance, self.tally
        number = f"{self._route}-{next(_ids)}"
        long = chance.random() < self._long
        body = pattern(len(number), chance.randrange(100_000, 400_000)) if long and chance.random() < 0.5 else b"{}"
        size = chance.randrange(100_000, 2_000_000) if long and len(body) == 2 else -1
        data = self._request(number, body, size, chunked=chance.random() < 0.2)
        if chance.random() < self._leave:
            return await self._give_up(reader, writer, data)
        tally.sent += 1
        try:
            for at in range(0, len(data), 1 << 16):
                writer.write(data[at : at + (1 << 16)])
                await writer.drain()
            status, headers, answer = await read_answer(reader)
        except asyncio.IncompleteReadError as error:
            tally.broken["closed inside an answer" if error.partial else "closed without an answer"] += 1
            return False
        except OSError:
            tally.broken["reset"] += 1
            return False
        tally.statuses[status] += 1
        self._check(number, status, answer, len(body), size)
        return headers.get("connection") != "close" and chance.random() < self._keep

    def _check(self, number: str, status: int, answer: bytes, sent: int, size: int) -> None:
        if status != 200:
            if not answer.startswith(b'{"error":'):
                self.tally.foreign.append(f"{number}: {status} {answer[:100]!r}")
        elif size < 0 or answer != pattern(0, size):  # a backend that was told to misbehave echoes instead
            try:
                echo: dict[str, Any] = msgspec.json.decode(answer)
            except ValueError:
                echo = {}
            if echo.get("id") != number or echo.get("length") != sent:
                self.tally.foreign.append(f"{number} ({sent} bytes sent, {size} asked): {answer[:200]!r}")

    def _request(self, number: str, body: bytes, size: int, *, chunked: bool) -> bytes:
        script = Script(size=size).header() if size >= 0 else b""
        if chunked:
            framing, body = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            framing = b"Content-Length: %d" % len(body)
        return b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: g\r\n%b\r\nx-test-id: %b\r\n%b%b\r\n%b" % (
            self._route.encode(),
            framing,
            number.encode(),
            self._fields,
            script,
            body,
        )

    async def _give_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bool:
        """Leaves in the head, in the body, while waiting, or in the answer."""
        where = self._chance.choice(("upload", "wait", "answer"))
        self.tally.left[where] += 1
        writer.write(data[: self._chance.randrange(1, len(data))] if where == "upload" else data)
        await writer.drain()
        if where == "answer":
            await reader.read(self._chance.randrange(1, 1000))
        elif self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.random() * 0.01)
        return False


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """A whole response with a length or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rows = head[:-4].split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)}
    if headers.get("transfer-encoding") != "chunked":
        return int(line[9:12]), headers, await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return int(line[9:12]), headers, body
