"""The messages between a worker and its controller, and their framing on the local Unix socket.

The two planes meet in two values only: a published RouteTable and a WorkerReport. Frames are a four-byte
big-endian length and one msgpack message; a node's controller can be anywhere that a stream reaches.
"""

import struct
from collections.abc import Iterator

import msgspec

from gateway.core.route import RouteTable
from gateway.telemetry.records import Samples, WorkerReport

MAX_FRAME = 64 << 20
_LENGTH = struct.Struct(">I")


class Hello(msgspec.Struct, kw_only=True, tag="hello"):
    """First message of a worker: who it is and which table it already serves."""

    worker: int
    incarnation: str
    pid: int
    generation: int


class Applied(msgspec.Struct, kw_only=True, tag="applied"):
    """A worker serves this generation from now on."""

    worker: int
    incarnation: str
    generation: int


class Publish(msgspec.Struct, kw_only=True, tag="publish"):
    """The controller's order: serve this table. An older generation than the served one is ignored."""

    table: RouteTable


FromWorker = Hello | Applied | WorkerReport | Samples
_encoder = msgspec.msgpack.Encoder()
_from_worker = msgspec.msgpack.Decoder(FromWorker)
_to_worker = msgspec.msgpack.Decoder(Publish)


def frame(message: FromWorker | Publish) -> bytes:
    """One message as bytes on the wire."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def decode_from_worker(body: bytes) -> FromWorker:
    """A worker's message; raises msgspec.ValidationError or DecodeError when it is none."""
    message: FromWorker = _from_worker.decode(body)
    return message


def decode_to_worker(body: bytes) -> Publish:
    """A controller's message; raises msgspec.ValidationError or DecodeError when it is none."""
    return _to_worker.decode(body)


class Frames:
    """Splits a byte stream into message bodies; raises ValueError beyond `MAX_FRAME`."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields every body that is complete once `data` is appended."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            (length,) = _LENGTH.unpack_from(buffer)
            if length > MAX_FRAME:
                raise ValueError(f"frame of {length} bytes is above the bound of {MAX_FRAME}")
            if len(buffer) < 4 + length:
                return
            body = bytes(buffer[4 : 4 + length])
            del buffer[: 4 + length]
            yield body
