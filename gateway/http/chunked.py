"""Chunked transfer coding, strictly (RFC 9112 section 7.1): both directions decode it and write it anew.

Refused: anything but 1 to 15 hexadecimal digits as a size, chunk extensions above a bound, bare LF, trailers above a
bound or that carry framing fields. Trailer fields are dropped, as a proxy may (RFC 9110 section 6.5.1).
"""

import re

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t\x20-\x7e\x80-\xff]*")
_FORBIDDEN_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"host", b"content-encoding"})
_MAX_LINE = 4096
_MAX_TRAILERS = 8192
_MANY = 8
LAST_CHUNK = b"0\r\n\r\n"


class ChunkError(ValueError):
    """The bytes are not valid chunked coding."""


def encode_chunk(data: bytes | memoryview) -> tuple[bytes, bytes | memoryview, bytes]:
    """One chunk as the three pieces to write; `data` must not be empty."""
    return b"%x\r\n" % len(data), data, b"\r\n"


class ChunkedDecoder:
    """Takes bytes as they come and gives back slices of the body.

    Attributes:
        done: the last chunk and its trailers have been read.
        rest: bytes after the end of the body, once done.
    """

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "done", "rest")

    def __init__(self) -> None:
        self._state = "size"  # size -> data -> end -> size ... -> trailer
        self._line = bytearray()
        self._left = 0
        self._trailer_bytes = 0
        self.done = False
        self.rest: bytes | memoryview = b""

    def feed(self, data: bytes | memoryview) -> list[memoryview]:
        """The body slices inside `data`, in order, many small ones joined; raises ChunkError."""
        whole = data if isinstance(data, bytes) else bytes(data)
        view = memoryview(whole)
        out: list[memoryview] = []
        at, size = 0, len(view)
        while at < size:
            if self._state == "data":
                take = min(self._left, size - at)
                out.append(view[at : at + take])
                at += take
                self._left -= take
                if not self._left:
                    self._state = "end"
                continue
            line, at = self._read_line(whole, at)
            if line is None:
                break
            self._on_line(line)
            if self.done:
                self.rest = view[at:]
                break
        return out if len(out) <= _MANY else [memoryview(b"".join(out))]

    def _read_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The line that starts in the buffer and ends at or after `at`, or None while it is incomplete."""
        end = data.find(b"\n", at, at + _MAX_LINE + 2)
        if end < 0:
            self._line += data[at : at + _MAX_LINE + 2]
            if len(self._line) > _MAX_LINE:
                raise ChunkError("chunk line too long")
            return None, len(data)
        line = bytes(self._line) + data[at : end + 1]
        self._line.clear()
        if len(line) > _MAX_LINE + 2 or not line.endswith(b"\r\n"):
            raise ChunkError("chunk line too long or not ended by CRLF")
        return line[:-2], end + 1

    def _on_line(self, line: bytes) -> None:
        if self._state == "end":
            if line:
                raise ChunkError("chunk data longer than its size")
            self._state = "size"
        elif self._state == "size":
            found = _SIZE.fullmatch(line)
            if not found:
                raise ChunkError("invalid chunk size")
            self._left = int(found[1], 16)
            self._state = "data" if self._left else "trailer"
        elif not line:
            self.done = True
        else:
            self._trailer_bytes += len(line)
            field = _TRAILER.fullmatch(line)
            if not field or self._trailer_bytes > _MAX_TRAILERS or field[1].lower() in _FORBIDDEN_TRAILERS:
                raise ChunkError("invalid trailer")
