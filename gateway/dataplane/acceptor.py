"""Accepts clients from the listening socket that all workers share, so that few connections still spread evenly.

Every worker wakes for a new connection and the first one takes it. A worker that already holds more connections than
the emptiest one steps back for a moment, in proportion; if nobody else comes it takes the connection after all.
The socket belongs to the supervisor: a worker's death closes nothing.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from gateway.boot import Slots
from gateway.dataplane.tlsfiles import ListenerTls

_LOG = logging.getLogger(__name__)
_STEP_BACK_S = 0.0005
_MAX_STEP_BACK_S = 0.004
_NO_RESOURCES_S = 0.2
_HANDSHAKES_S = 0.01
_TLS_SHUTDOWN_S = 2.0
_BATCH = 16
_LAST = 4096


class Acceptor:
    """One worker's hand on the shared listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        slots: Slots,
        connections: Callable[[], int],
        max_connections: int,
        protocol: Callable[[], asyncio.Protocol],
        tls: ListenerTls,
    ) -> None:
        self._listener = listener
        self._slots = slots
        self._connections = connections
        self._max_connections = max_connections
        self._protocol = protocol
        self._tls = tls
        self._max_opening = tls.config.max_handshakes if tls.config else max_connections
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stepped_back = False
        self._open = False

    def start(self) -> None:
        """Begins to accept."""
        self._open = True
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._readable)

    @property
    def opening(self) -> int:
        """Accepted clients that are not connections of the data plane yet."""
        return len(self._opening)

    def stop(self, last: bool) -> None:
        """Accepts nothing more and lets go of the socket; others who hold it go on.

        Args:
            last: nobody goes on. Who is waiting to be accepted is taken in, as closing the socket would reset them.
        """
        self._open = False
        self._loop.remove_reader(self._listener.fileno())
        if self._timer is not None:
            self._timer.cancel()
        if last:
            for _ in range(_LAST):
                if not self._accept():
                    break
        self._listener.close()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(seconds, self._again)

    def _again(self) -> None:
        self._timer = None
        if self._open:
            self._loop.add_reader(self._listener.fileno(), self._readable)

    def _readable(self) -> None:
        mine = self._connections() + len(self._opening)
        if mine >= self._max_connections:
            self._pause(_NO_RESOURCES_S)
            return
        if len(self._opening) >= self._max_opening:
            self._pause(_HANDSHAKES_S)
            return
        alone = self._slots.workers == 1
        if not alone and not self._stepped_back:
            ahead = mine - self._slots.fewest_connections()
            if ahead > 0:
                self._stepped_back = True
                self._pause(min(_STEP_BACK_S * ahead, _MAX_STEP_BACK_S))
                return
        self._stepped_back = False
        room = min(self._max_connections - mine, self._max_opening - len(self._opening))
        for _ in range(min(_BATCH, room) if alone else 1):
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Takes one connection; False when none waits, or there is nothing left to take one with."""
        try:
            client, _address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                _LOG.error("cannot accept: %s", error)
                if self._open:
                    self._pause(_NO_RESOURCES_S)
                return False
            raise
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._adopt(client))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _adopt(self, client: socket.socket) -> None:
        tls, context = self._tls.config, self._tls.context
        try:
            if tls is None:
                await self._loop.connect_accepted_socket(self._protocol, client)
            elif context is None:
                client.close()
            else:
                await self._loop.connect_accepted_socket(
                    self._protocol,
                    client,
                    ssl=context,
                    ssl_handshake_timeout=tls.handshake_timeout_s,
                    ssl_shutdown_timeout=_TLS_SHUTDOWN_S,
                )
        except OSError:  # a failed handshake among them: the client's own affair, and cheap to repeat
            client.close()
