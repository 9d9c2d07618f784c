"""A model repository, wherever it lies."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

CONFIG = "config.pbtxt"
MANIFEST = "manifest.json"


class Repository(Protocol):
    """Storage of models and versions. Paths are relative to a version: `model.onnx`, `model.onnx/model.onnx`."""

    @property
    def url(self) -> str:
        """Where it is, for messages and manifests."""
        ...

    @property
    def side(self) -> Path:
        """A local directory beside (never inside) the repository for work, locks and kept failures."""
        ...

    def lock(self, name: str, timeout_s: float) -> AbstractContextManager[None]:
        """Exclusive right to publish the model."""
        ...

    def models(self) -> list[str]:
        """Names of all models, sorted."""
        ...

    def versions(self, name: str) -> list[int]:
        """Numbers of all whole versions, ascending; empty for an unknown model."""
        ...

    def files(self, name: str, version: int) -> list[str]:
        """Relative paths of all files of a version, sorted."""
        ...

    def read(self, name: str, version: int, path: str) -> bytes:
        """One file of a version; FileNotFoundError."""
        ...

    def config(self, name: str) -> str | None:
        """The text of config.pbtxt, or None."""
        ...

    def write_config(self, name: str, text: str) -> None:
        """Replace config.pbtxt in one step."""
        ...

    def add_version(self, name: str, version: int, staged: Path, config: str | None) -> None:
        """Make the staged directory a version, whole or not at all; with `config` the model itself is new."""
        ...

    def remove_version(self, name: str, version: int) -> None:
        """Take a version away; readers see it whole until it is gone."""
        ...

    def remove_model(self, name: str) -> None:
        """Take a model away with all its versions."""
        ...

    def staging(self, name: str) -> Path:
        """A new empty directory from which `add_version` can publish."""
        ...
