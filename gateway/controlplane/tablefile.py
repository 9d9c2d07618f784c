"""The published table on disk: what a worker serves before it has heard from a controller."""

import os
from pathlib import Path

import msgspec

from gateway.core.route import RouteTable
from gateway.errors import StoreError


def write(path: Path, table: RouteTable) -> None:
    """Replaces the file in one step, so that a reader or a power cut sees the old table or the new one."""
    data = msgspec.msgpack.encode(table)
    fresh = path.with_suffix(".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path) -> RouteTable | None:
    """The table in the file; None without one, or with one that this version cannot read."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=RouteTable)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
