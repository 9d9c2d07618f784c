"""An answer that is longer than one read: passed on to the client as it comes."""

from gateway.http.chunked import LAST_CHUNK, encode_chunk
from gateway.http.connection import ClientConnection

# How Triton writes an error into a stream whose status was already sent.
STREAM_ERROR = b'data: {"error"'


class Relay:
    """Slices on their way to the client.

    Args:
        connection: the client.
        chunked: the answer's length is unknown and the client understands chunks.
        events: the answer is a stream of events; an error among them counts as one.
        keep_bytes: keep the body for later, unless it is longer than this; -1 keeps nothing.

    Attributes:
        size: bytes so far.
        failed: an error was seen among the events.
        kept: the slices kept, None when nothing is kept or it became too long.
    """

    __slots__ = ("_chunked", "_connection", "_events", "_keep_bytes", "_tail", "failed", "kept", "size")

    def __init__(self, connection: ClientConnection, chunked: bool, events: bool, keep_bytes: int) -> None:
        self._connection = connection
        self._chunked = chunked
        self._events = events
        self._keep_bytes = keep_bytes
        self._tail = b""
        self.size = 0
        self.failed = False
        self.kept: list[bytes] | None = [] if keep_bytes >= 0 else None

    def pass_on(self, data: bytes | memoryview) -> None:
        """Sends one slice."""
        self.size += len(data)
        if self.kept is not None:
            if self.size <= self._keep_bytes:
                self.kept.append(bytes(data))
            else:
                self.kept = None
        if self._events and not self.failed:
            window = self._tail + bytes(data)
            self.failed = STREAM_ERROR in window
            self._tail = window[-len(STREAM_ERROR) :]
        if self._chunked:
            for piece in encode_chunk(data):
                self._connection.write(piece)
        else:
            self._connection.write(data)

    @property
    def last(self) -> bytes:
        """What ends the answer on the wire."""
        return LAST_CHUNK if self._chunked else b""
