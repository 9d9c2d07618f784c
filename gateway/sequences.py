"""Where each running sequence lives: one table in memory that all workers of a node share.

The requests of one sequence may arrive on several connections and so at several workers; all must go to the replica
that has seen its first one. The table is a memory file of fixed size, eight entries to a bucket; a bucket is read
and written under a POSIX lock on its bytes, which the kernel releases when a worker dies.
"""

import fcntl
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

_ENTRY = struct.Struct("=16s8s8sq")
_ENTRY_BYTES = 64
_WAYS = 8
_BUCKET_BYTES = _ENTRY_BYTES * _WAYS
_BUCKETS = 16384
TABLE_BYTES = _BUCKET_BYTES * _BUCKETS
_EMPTY = bytes(16)


def short_digest(name: str) -> bytes:
    """Eight bytes that stand for a variant's name or a backend's URL."""
    return blake2b(name.encode(), digest_size=8).digest()


def sequence_key(route: str, sequence_id: str) -> bytes:
    """Sixteen bytes that stand for a sequence of a route."""
    return blake2b(f"{route}\0{sequence_id}".encode(), digest_size=16).digest()


class Place(NamedTuple):
    """Which variant and backend hold a sequence, as short digests."""

    variant: bytes
    backend: bytes


class SequenceTable:
    """At most 131,072 running sequences of a node; when a bucket is full the one closest to its end gives way."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._offset = offset
        self._map = mmap.mmap(fd, offset + TABLE_BYTES)

    @contextmanager
    def _bucket(self, key: bytes) -> Iterator[int]:
        at = self._offset + (int.from_bytes(key[:4], "little") % _BUCKETS) * _BUCKET_BYTES
        fcntl.lockf(self._fd, fcntl.LOCK_EX, _BUCKET_BYTES, at)
        try:
            yield at
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, _BUCKET_BYTES, at)

    def _entries(self, bucket: int) -> Iterator[tuple[int, bytes, Place, int]]:
        for at in range(bucket, bucket + _BUCKET_BYTES, _ENTRY_BYTES):
            key, variant, backend, expires_ns = _ENTRY.unpack_from(self._map, at)
            yield at, key, Place(variant, backend), expires_ns

    def put(self, key: bytes, place: Place, now_ns: int, idle_ns: int) -> None:
        """Begins a sequence, or moves one that begins again."""
        with self._bucket(key) as bucket:
            entries = list(self._entries(bucket))
            at = next((at for at, known, _, _ in entries if known == key), None)
            if at is None:
                free = (at for at, known, _, expires in entries if known == _EMPTY or expires <= now_ns)
                at = next(free, None)
            if at is None:
                at = min(entries, key=lambda entry: entry[3])[0]
            _ENTRY.pack_into(self._map, at, key, place.variant, place.backend, now_ns + idle_ns)

    def find(self, key: bytes, now_ns: int, idle_ns: int) -> Place | None:
        """Where a sequence lives, if it runs; its idle time begins anew."""
        with self._bucket(key) as bucket:
            for at, known, place, expires_ns in self._entries(bucket):
                if known == key:
                    if expires_ns <= now_ns:
                        return None
                    _ENTRY.pack_into(self._map, at, key, place.variant, place.backend, now_ns + idle_ns)
                    return place
        return None

    def remove(self, key: bytes) -> None:
        """Ends a sequence."""
        with self._bucket(key) as bucket:
            for at, known, _, _ in self._entries(bucket):
                if known == key:
                    _ENTRY.pack_into(self._map, at, _EMPTY, bytes(8), bytes(8), 0)
