"""How a worker process starts: what its supervisor hands it, and the few words they share in memory."""

import mmap
import os
import struct
from enum import IntEnum

import msgspec

from gateway.config import Config
from gateway.core.route import Routes
from gateway.rates import RATES_BYTES, RateTable
from gateway.sequences import TABLE_BYTES, SequenceTable

_SLOT = struct.Struct("=qqq")
_SLOT_BYTES = 64


class Boot(msgspec.Struct, kw_only=True):
    """Everything a worker needs; handed over in a memory file whose descriptor it inherits.

    Attributes:
        worker: slot number, 0 to workers - 1.
        line: its line in `Slots`; while a worker is being replaced, two processes have one slot number.
        incarnation: unique for each process that ever held the slot.
        listen_fd: inherited listening socket, shared by all workers; the supervisor keeps it open.
        slots_fd: inherited memory file of `Slots`.
        control_path: the controller's Unix socket.
        table_path: file with the last published RouteTable (msgpack), absent before the first.
        config: settings of the process group.
    """

    worker: int
    line: int
    incarnation: str
    listen_fd: int
    slots_fd: int
    control_path: str
    table_path: str
    config: Config

    def to_fd(self) -> int:
        """Writes the value into a new inheritable memory file and returns its descriptor."""
        return _memory_file("sluice-boot", msgspec.msgpack.encode(self))

    @classmethod
    def from_fd(cls, fd: int) -> "Boot":
        """Reads the value that `to_fd` wrote and closes the descriptor."""
        with os.fdopen(fd, "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=cls)


class ControllerBoot(msgspec.Struct, kw_only=True):
    """Everything the controller needs, handed over as `Boot` is.

    Attributes:
        admin_fd: inherited listening socket of the admin API.
        control_fd: inherited listening Unix socket that the workers connect to.
        slots_fd: inherited memory file of `Slots`.
        ready_fd: inherited pipe; the controller writes one byte once it serves.
        table_path: file it keeps the published RouteTable in.
        routes: to be applied at start where they differ from the stored ones; None leaves those.
        check: command that checks the settings as they are in their file now, and prints them; empty without a file.
    """

    admin_fd: int
    control_fd: int
    slots_fd: int
    ready_fd: int
    table_path: str
    config: Config
    routes: Routes | None
    check: tuple[str, ...] = ()

    def to_fd(self) -> int:
        """Writes the value into a new inheritable memory file and returns its descriptor."""
        return _memory_file("sluice-controller", msgspec.msgpack.encode(self))

    @classmethod
    def from_fd(cls, fd: int) -> "ControllerBoot":
        """Reads the value that `to_fd` wrote and closes the descriptor."""
        with os.fdopen(fd, "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=cls)


def _memory_file(name: str, content: bytes) -> int:
    fd = os.memfd_create(name, 0)
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class SlotState(IntEnum):
    """Where a worker is in its life."""

    EMPTY = 0
    STARTING = 1
    SERVING = 2
    DRAINING = 3


class Slots:
    """One shared cache line per process: open connections, state and last sign of life (monotonic nanoseconds).

    Each process writes only its own line; the supervisor clears the line of a worker that died. Eight-byte aligned
    words make single reads and writes whole on every platform the gateway runs on. The number of lines is fixed, so
    that workers come and go without a new memory file: the lowest free one is taken.
    """

    LINES = 1024
    CONTROLLER = LINES - 1  # that process writes signs of life only, and is never SERVING

    def __init__(self, fd: int, workers: int) -> None:
        self.workers = workers
        self._fd = fd
        self._map = mmap.mmap(fd, self.LINES * _SLOT_BYTES)
        self._looked_at = min(4 * workers, self.LINES)

    def sequences(self) -> SequenceTable:
        """The table of running sequences that lies behind the lines in the same memory file."""
        return SequenceTable(self._fd, self.LINES * _SLOT_BYTES)

    def rates(self) -> RateTable:
        """The rate limits' table, behind that."""
        return RateTable(self._fd, self.LINES * _SLOT_BYTES + TABLE_BYTES)

    @classmethod
    def create(cls) -> int:
        """A new inheritable memory file for lines, sequences and rates; returns its descriptor."""
        fd = os.memfd_create("sluice-slots", 0)
        os.ftruncate(fd, cls.LINES * _SLOT_BYTES + TABLE_BYTES + RATES_BYTES)
        return fd

    def write(self, line: int, connections: int, state: SlotState, alive_ns: int) -> None:
        """Sets a line."""
        _SLOT.pack_into(self._map, line * _SLOT_BYTES, connections, state, alive_ns)

    def read(self, line: int) -> tuple[int, SlotState, int]:
        """A process's open connections, state and last sign of life."""
        connections, state, alive_ns = _SLOT.unpack_from(self._map, line * _SLOT_BYTES)
        return connections, SlotState(state), alive_ns

    def fewest_connections(self) -> int:
        """Open connections of the serving worker that has fewest; 0 when none serves."""
        lines = (self.read(line) for line in range(self._looked_at))
        return min((connections for connections, state, _ in lines if state is SlotState.SERVING), default=0)

    def close(self) -> None:
        """Unmaps the memory; the descriptors stay with their owners."""
        self._map.close()
