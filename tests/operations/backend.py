"""A stand-in for Triton that says what it was asked: who it is, the request's head, how often it was called."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Backend:
    """Answers every request on a thread of its own; a `x-delay-ms` header makes it wait.

    Attributes:
        heads: raw heads of the inferences so far.
        peers: subjects of the client certificates seen, as ssl gives them.
        ready: what it says when it is probed.
    """

    def __init__(self, name: str, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.name = name
        self.heads: list[bytes] = []
        self.peers: list[object] = []
        self.ready = True
        self.connections = 0
        self._tls = tls
        self._host = host
        self.port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    def start(self) -> None:
        """Returns once it listens."""
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        """Ends it and all its connections."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        start = asyncio.start_server(self._client, self._host, self.port, ssl=self._tls)
        server = self._loop.run_until_complete(start)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        """Connections that were being accepted get here first: then all can be closed."""
        await asyncio.sleep(0.05)
        for writer in self._writers:
            writer.transport.abort()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            _, waiting = await asyncio.wait(others, timeout=0.2)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0.01)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        if peer := writer.get_extra_info("peercert"):
            self.peers.append(peer["subject"])
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                status = 200
                if "/health/" in lines[0]:
                    status = 200 if self.ready else 400
                elif lines[0].startswith("POST"):
                    self.heads.append(head)
                await asyncio.sleep(float(fields.get("x-delay-ms", "0")) / 1000)
                text = json.dumps({"backend": self.name, "echo": body.decode("latin-1")[:200]}).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text))
                await writer.drain()
        # Forgotten: asyncio's TLS transport cannot be aborted once it was lost and closed.
        self._writers.remove(writer)
        writer.transport.abort()


@contextmanager
def backend(name: str = "one", tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Backend]:
    """A running backend."""
    made = Backend(name, tls, host)
    made.start()
    try:
        yield made
    finally:
        made.stop()
