"""From what the user calls the repository to the object that writes it."""

from __future__ import annotations

from pathlib import Path

from export.errors import UsageError
from export.publish.local import LocalRepository
from export.publish.repository import Repository


def open_repository(where: str, *, create: bool = False) -> Repository:
    """A directory or an fsspec URL. With `create` it is made when missing; else UsageError says that it is."""
    if "://" in where:
        from export.publish.remote import FsspecRepository  # noqa: PLC0415  (few need fsspec)

        remote = FsspecRepository(where)
        remote.prepare()
        return remote
    repository = LocalRepository(Path(where))
    if create:
        repository.prepare()
    elif not repository.root.is_dir():
        raise UsageError(f"{where}: no such model repository")
    return repository
