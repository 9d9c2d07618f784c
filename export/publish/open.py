"""From what the user calls the repository to the object that writes it."""

from __future__ import annotations

from pathlib import Path

from export.errors import UsageError
from export.publish.local import LocalRepository
from export.publish.repository import Repository


def open_repository(where: str, *, create: bool = False) -> Repository:
    """A directory or an fsspec URL. With `create` it is made when missing; else UsageError says that it is."""
    if "://" in where:
        raise UsageError(f"{where}: only directories can be repositories so far")
    repository = LocalRepository(Path(where))
    if create:
        repository.prepare()
    elif not repository.root.is_dir():
        raise UsageError(f"{where}: no such model repository")
    return repository
