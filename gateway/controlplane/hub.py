"""The controller's end of the Unix socket: hands every worker the newest table and hears what each one counts."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gateway.core.route import RouteTable
from gateway.messages import Applied, Frames, Hello, Publish, decode_from_worker, frame
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.logs import logger
from gateway.telemetry.records import Samples, WorkerReport

_READ_BYTES = 1 << 16
_HELLO_S = 10.0
_MAX_UNSENT = 4  # tables a worker may lag behind before its connection is given up
_log = logger("hub")


@dataclass(slots=True, eq=False)
class Session:
    """One connected worker."""

    writer: asyncio.StreamWriter
    worker: int = -1
    incarnation: str = ""
    pid: int = 0
    generation: int = -1
    last_seen: float = 0.0
    report: WorkerReport | None = None
    sent: int = 0


class Hub:
    """Publishes tables to the workers that are connected and to each that comes later.

    Args:
        ledger: receives every report.
        clock: monotonic seconds.

    Attributes:
        on_report: called with every report, after the ledger has it.
        on_samples: called with every batch of sampled answers.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.on_report: Callable[[WorkerReport], None] = lambda _: None
        self.on_samples: Callable[[Samples], None] = lambda _: None
        self._ledger = ledger
        self._clock = clock
        self._sessions: dict[str, Session] = {}  # by incarnation: while one is replaced, two share a slot
        self._frame = b""
        self._table = RouteTable()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """Accepts workers on a listening Unix socket from now on."""
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def stop(self) -> None:
        """Closes all connections; workers keep their tables and try to reconnect."""
        if self._server:
            self._server.close()
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    @property
    def sessions(self) -> list[Session]:
        """Connected workers by slot; where two share one, the newer process is the later one."""
        return sorted(self._sessions.values(), key=lambda session: session.worker)

    @property
    def table(self) -> RouteTable:
        """The table published last."""
        return self._table

    def publish(self, table: RouteTable) -> None:
        """Sends a table to all workers; does not wait for them."""
        self._table = table
        self._frame = frame(Publish(table=table))
        for session in self.sessions:
            self._send(session)

    async def applied(self, generation: int, within_s: float) -> list[int]:
        """Waits until every connected worker serves `generation` or a later one; returns the slots that do not."""

        def late() -> list[int]:
            return [session.worker for session in self.sessions if session.generation < generation]

        await self._until(lambda: not late(), within_s)
        return late()

    async def all_serve(self, workers: int, generation: int, within_s: float) -> None:
        """Waits, at most so long, until as many workers as there should be serve `generation` or a later one."""
        await self._until(lambda: sum(s.generation >= generation for s in self.sessions) >= workers, within_s)

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        deadline = self._clock() + within_s
        while not condition() and (left := deadline - self._clock()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(writer, last_seen=self._clock())
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            frames = Frames()
            while True:
                wait = None if session.worker >= 0 else _HELLO_S
                data = await asyncio.wait_for(reader.read(_READ_BYTES), wait)
                if not data:
                    break
                for body in frames.feed(data):
                    self._take(session, body)
        except (ConnectionError, TimeoutError):
            pass
        except (ValueError, msgspec.MsgspecError) as error:
            _log.error("a worker's message makes no sense; closing its connection", reason=str(error), pid=session.pid)
        except asyncio.CancelledError:
            pass  # stop() ends all handlers; the streams machinery would report it as an error
        finally:
            if self._sessions.get(session.incarnation) is session:
                del self._sessions[session.incarnation]
                self._changed.set()
            self._handlers.discard(task)
            writer.close()

    def _take(self, session: Session, body: bytes) -> None:
        message = decode_from_worker(body)
        session.last_seen = self._clock()
        match message:
            case Hello():
                session.worker, session.incarnation = message.worker, message.incarnation
                session.pid, session.generation = message.pid, message.generation
                before = self._sessions.pop(message.incarnation, None)
                self._sessions[message.incarnation] = session
                if before is not None and before is not session:
                    before.writer.close()
                if self._frame:
                    self._send(session)
            case Applied():
                session.generation = message.generation
            case WorkerReport():
                session.report = message
                session.generation = message.generation
                self._ledger.record(message)
                self.on_report(message)
            case Samples():
                self.on_samples(message)
        self._changed.set()

    def _send(self, session: Session) -> None:
        transport = session.writer.transport
        if transport.get_write_buffer_size() > _MAX_UNSENT * len(self._frame):
            _log.warning("a worker does not read its tables; closing its connection", worker=session.worker)
            transport.abort()
            return
        session.writer.write(self._frame)
