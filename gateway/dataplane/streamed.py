"""The body of a request that is forwarded as it arrives."""

from collections.abc import Callable

from gateway.http.chunked import LAST_CHUNK, encode_chunk
from gateway.http.client import UpstreamConnection

_UNSENT_BOUND = 256 << 10


class StreamedBody:
    """Slices on their way to a backend; kept only while a retry or a copy may need them, and within a bound.

    Args:
        content_length: as the client declared it; -1 for a chunked body.
        hold_bound: bytes that may be kept; 0 when nothing will need them again.
        claim: counts kept bytes against the worker's bound (negative ones are let go); False when it is reached.

    Attributes:
        held: every slice so far; None once the body was let go.
        size: bytes so far.
        complete: the last slice was taken.
    """

    __slots__ = ("_claim", "_claimed", "_content_length", "_hold_bound", "complete", "held", "size")

    def __init__(self, content_length: int, hold_bound: int, claim: Callable[[int], bool]) -> None:
        self._content_length = content_length
        self._hold_bound = hold_bound if content_length <= hold_bound else 0
        self._claim = claim
        self._claimed = 0
        self.held: list[bytes | memoryview] | None = []
        self.size = 0
        self.complete = False

    @property
    def length(self) -> int:
        """Content-Length towards the backend, -1 where the body must be chunked."""
        return self.size if self.complete else self._content_length

    def parts(self) -> list[bytes | memoryview]:
        """What a new connection must be sent first, framed; slices that come later follow by `take`."""
        held = self.held or []
        return held if self.length >= 0 else [piece for part in held for piece in encode_chunk(part)]

    def sending(self) -> bool:
        """Called when a connection has taken `parts`; False when they were let go, because nothing keeps them."""
        if self._hold_bound == 0 and self.held is not None:
            self.let_go()
        return self.held is not None

    def take(self, data: bytes | memoryview, upstream: UpstreamConnection | None) -> bool:
        """Forwards and perhaps keeps a slice; False when the body is no longer kept."""
        size = len(data)
        self.size += size
        if upstream is not None:
            self._write(data, upstream)
        if self.held is None:
            return False
        fits = self._claim(size)
        if fits:
            self._claimed += size
        self.held.append(bytes(data))  # a slice would keep alive all that it was received with
        if upstream is not None and (self.size > self._hold_bound or not fits):
            self.let_go()
        return self.held is not None

    def _write(self, data: bytes | memoryview, upstream: UpstreamConnection) -> None:
        if self._content_length >= 0:
            upstream.write(data)
        else:
            for piece in encode_chunk(data):
                upstream.write(piece)

    def end(self, upstream: UpstreamConnection | None) -> None:
        """The body is complete."""
        if upstream is not None:
            if self._content_length < 0:
                upstream.write(LAST_CHUNK)
            upstream.sent_all = True
        self.complete = True

    @property
    def clogged(self) -> bool:
        """So much waits for a connection that the client must not send more yet."""
        return self.held is not None and self.size > _UNSENT_BOUND

    def let_go(self) -> None:
        """Keeps nothing from here on."""
        if self.held is not None:
            self._claim(-self._claimed)
            self._claimed = 0
            self.held = None
