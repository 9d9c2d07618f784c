"""Requests at a rate that does not wait for answers, each with its fate: what clients see while something breaks."""

import asyncio
import gc
import random
import re
import select
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BACKEND: Final = re.compile(rb"\r\nx-backend: *([^\r]*)", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_BODY: Final = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[0.1,0.2,0.3,0.4]}]}'
_CHECK_S: Final = 0.05
OK: Final = "200"


class Outcome(NamedTuple):
    """One request: when it was sent (loop time, s), how long it took, how it ended, and which backend answered.

    `kind` is the status as text, or `refused`, `reset` (in mid-request), `closed` (no answer came), `timeout`.
    """

    at: float
    latency_s: float
    kind: str
    by: str


def request(route: str = "m", extra: str = "", body: bytes = _BODY) -> bytes:
    """One small inference as bytes."""
    head = f"POST /v2/models/{route}/infer HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    return f"{head}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def p99_ms(outcomes: Iterable[Outcome]) -> float | None:
    """The 99th percentile of the answered ones in ms (nearest rank); None without any."""
    return quantile_ms(outcomes, 0.99)


def quantile_ms(outcomes: Iterable[Outcome], q: float) -> float | None:
    """A quantile of the latencies of status 200 in ms (nearest rank); None without any."""
    found = sorted(o.latency_s for o in outcomes if o.kind == OK)
    return found[min(int(len(found) * q), len(found) - 1)] * 1e3 if found else None


def failures(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Everything but status 200, counted."""
    return dict(Counter(o.kind for o in outcomes if o.kind != OK))


class Load:
    """A client with many connections to one port.

    Every request is sent on an idle connection, the one that was idle longest; without one on a new connection, and
    at the bound of connections it waits, which counts as its latency.

    Attributes:
        outcomes: so far, in the order of their ends.
    """

    def __init__(self, port: int, payload: bytes, *, connections: int = 1000, timeout_s: float = 10.0) -> None:
        self.outcomes: list[Outcome] = []
        self.timeout_s = timeout_s
        self._port = port
        self._payload = payload
        self._bound = connections
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._connecting = 0
        self._waiting: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def at_rate(self, rate: float, seconds: float, *, seed: int = 0, stop: asyncio.Event | None = None) -> None:
        """Sends at `rate` per second with exponential gaps until the time is over or `stop`; waits for all answers."""
        chance = random.Random(seed)
        gc.collect()
        gc.freeze()
        checks = self._loop.create_task(self._check())
        due = begun = self._loop.time()
        while due < begun + seconds and not (stop and stop.is_set()):
            now = self._loop.time()
            if due > now:
                await asyncio.sleep(due - now)
                now = self._loop.time()
            while due <= now:
                self._send(now)
                due += chance.expovariate(rate)
        await self._finish(checks)

    async def _finish(self, checks: "asyncio.Task[None]") -> None:
        end = self._loop.time() + self.timeout_s + 1.0
        now = self._loop.time()
        while (self._waiting or self._connecting or len(self._idle) < len(self._open)) and now < end:
            await asyncio.sleep(0.01)
            now = self._loop.time()
        checks.cancel()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)

    def _send(self, now: float) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.usable and not connection.dropped():
                connection.send(self._payload, now)
                return
        self._waiting.append(now)
        if len(self._open) + self._connecting < self._bound:
            self._connecting += 1
            task = self._loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self.timeout_s):
                _, connection = await self._loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except (OSError, TimeoutError) as error:
            kind = "refused" if isinstance(error, ConnectionRefusedError) else "reset"
            if self._waiting:
                at = self._waiting.popleft()
                self.ended(at, "timeout" if isinstance(error, TimeoutError) else kind, "")
        else:
            self._open.add(connection)
            self.ready(connection)
        finally:
            self._connecting -= 1

    def ready(self, connection: "_Connection") -> None:
        """A connection can take a request."""
        if self._waiting and connection.usable:
            connection.send(self._payload, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def gone(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def ended(self, at: float, kind: str, by: str) -> None:
        """A request has ended."""
        now = self._loop.time()
        self.outcomes.append(Outcome(at, now - at, kind, by))

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            before = self._loop.time() - self.timeout_s
            for connection in [c for c in self._open if 0 < c.sent_at < before]:
                connection.give_up()
            while self._waiting and self._waiting[0] < before:
                self.ended(self._waiting.popleft(), "timeout", "")


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request.

    Attributes:
        sent_at: when the present request was due; 0 while there is none.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._closing = False
        self._readable = select.poll()
        self.sent_at = 0.0

    @property
    def usable(self) -> bool:
        """Whether a request may be sent on it."""
        return not self._closing and self._transport is not None and not self._transport.is_closing()

    def dropped(self) -> bool:
        """Whether the other side has ended it while it was idle: clients look before they use one again."""
        return bool(self._readable.poll(0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def eof_received(self) -> bool:
        """Called by the loop; the connection closes."""
        self._closing = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        at, self.sent_at = self.sent_at, 0.0
        self._load.gone(self)
        if at:
            self._load.ended(at, "reset" if exc is not None or self._buffer else "closed", "")

    def send(self, payload: bytes, at: float) -> None:
        """Sends a request; `at` is when it was due."""
        assert self._transport is not None
        self.sent_at = at
        self._transport.write(payload)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        status, length = _STATUS.match(self._buffer), _LENGTH.search(self._buffer, 0, end)
        if status is None or length is None:
            self.give_up("invalid")
        elif len(self._buffer) >= end + int(length[1]):
            by = _BACKEND.search(self._buffer, 0, end)
            self._closing |= _CLOSE.search(self._buffer, 0, end) is not None
            self._buffer = b""
            at, self.sent_at = self.sent_at, 0.0
            self._load.ended(at, status[1].decode(), by[1].decode() if by else "")
            if not self._closing:
                self._load.ready(self)
            elif self._transport is not None:
                self._transport.close()
                self._load.gone(self)

    def give_up(self, kind: str = "timeout") -> None:
        """Waits for its answer no more."""
        at, self.sent_at = self.sent_at, 0.0
        if at:
            self._load.ended(at, kind, "")
        self.abort()

    def abort(self) -> None:
        """Ends it at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
        self._load.gone(self)


def visit(port: int, rate: float, seconds: float, *, seed: int = 0,
          connections: int = 1000, timeout_s: float = 10.0) -> Sequence[Outcome]:  # fmt: skip
    """One load at a rate, from a process that does nothing else meanwhile."""

    async def go() -> Sequence[Outcome]:
        load = Load(port, request(), connections=connections, timeout_s=timeout_s)
        await load.at_rate(rate, seconds, seed=seed)
        return load.outcomes

    return asyncio.run(go())
