"""A worker's line to its controller: receives tables, sends reports, comes back after every break.

Nothing here is needed to serve: while the controller is away the worker keeps its table and its counts.
"""

import asyncio
import logging
from collections.abc import Callable
from random import random

import msgspec

from gateway.core.route import RouteTable
from gateway.messages import Applied, Frames, FromWorker, Hello, decode_to_worker, frame

_LOG = logging.getLogger(__name__)
_READ = 1 << 16
_MAX_WAIT_S = 2.0
_MAX_BACKLOG = 8 << 20


class ControlLink:
    """The stream to the controller's Unix socket."""

    def __init__(self, path: str, hello: Callable[[], Hello], publish: Callable[[RouteTable], bool]) -> None:
        self._path = path
        self._hello = hello
        self._publish = publish
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Keeps the line up until cancelled."""
        wait_s = 0.05
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(self._path)
            except OSError:
                await asyncio.sleep(wait_s * (0.5 + random()))
                wait_s = min(wait_s * 2, _MAX_WAIT_S)
                continue
            wait_s = 0.05
            try:
                self.send(self._hello())
                await self._listen(reader)
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                _LOG.warning("controller link: %s", error)
            finally:
                writer, self._writer = self._writer, None
                writer.close()
            await asyncio.sleep(wait_s)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        while data := await reader.read(_READ):
            for body in frames.feed(data):
                table = decode_to_worker(body).table
                self._publish(table)
                hello = self._hello()
                self.send(Applied(worker=hello.worker, incarnation=hello.incarnation, generation=hello.generation))

    def send(self, message: FromWorker) -> bool:
        """Sends a message if the line is up and not clogged; reports are cumulative, so a lost one is no loss."""
        writer = self._writer
        if writer is None or writer.is_closing() or writer.transport.get_write_buffer_size() > _MAX_BACKLOG:
            return False
        writer.write(frame(message))
        return True
