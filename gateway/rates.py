"""The rate limits of a node: one table in memory that all its workers share, so that a limit holds for their sum.

Entries are read and written without a lock: two workers that spend from one entry in the same instant may count as
one. That lets through a request too many now and then, and costs the request path nothing.
"""

import mmap
import struct
import time
from hashlib import blake2b

from gateway.core.rate import interval_ns, spend, tolerance_ns

_ENTRY = struct.Struct("=8sq")
_ENTRIES = 1 << 16
_PROBES = 8
RATES_BYTES = _ENTRY.size * _ENTRIES


class RateTable:
    """At most 65,536 callers that have spent something; those at rest need no entry."""

    def __init__(self, fd: int, offset: int) -> None:
        self.map = mmap.mmap(fd, offset + RATES_BYTES)
        self._offset = offset

    def place(self, key: bytes, now_ns: int) -> int:
        """Where a caller's entry is: its own, else a free one, else the one that is free soonest."""
        first = int.from_bytes(key, "little")
        spots = [self._offset + ((first + i) % _ENTRIES) * _ENTRY.size for i in range(_PROBES)]
        free, soonest = -1, (1 << 63, -1)
        for at in spots:
            known, arrival_ns = _ENTRY.unpack_from(self.map, at)
            if known == key:
                return at
            if arrival_ns <= now_ns and free < 0:
                free = at
            soonest = min(soonest, (arrival_ns, at))
        at = free if free >= 0 else soonest[1]
        _ENTRY.pack_into(self.map, at, key, 0)
        return at


class Limit:
    """One caller's rate.

    Args:
        name: tells callers apart.
        rate: requests per second over all workers.
        burst: requests that may come at once; the rate, rounded up, when 0.
    """

    __slots__ = ("_at", "_interval", "_key", "_map", "_table", "_tolerance")

    def __init__(self, table: RateTable, name: str, rate: float, burst: int) -> None:
        self._table = table
        self._map = table.map
        self._key = blake2b(name.encode(), digest_size=8).digest()
        self._interval = interval_ns(rate)
        self._tolerance = tolerance_ns(rate, burst)
        self._at = table.place(self._key, time.monotonic_ns())

    def take(self) -> float:
        """Spends one request: 0.0 when it may pass, else the seconds until the next one may."""
        now_ns = time.monotonic_ns()
        key, arrival_ns = _ENTRY.unpack_from(self._map, self._at)
        if key != self._key:  # somebody took the entry while this caller was at rest
            self._at = self._table.place(self._key, now_ns)
            _, arrival_ns = _ENTRY.unpack_from(self._map, self._at)
        arrival_ns, wait_ns = spend(arrival_ns, now_ns, self._interval, self._tolerance)
        if wait_ns:
            return wait_ns / 1e9
        _ENTRY.pack_into(self._map, self._at, self._key, arrival_ns)
        return 0.0
