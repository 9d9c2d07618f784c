"""A repository on object storage through fsspec: data before manifest, manifest before configuration.

Object stores rename nothing in one step, so order takes the place of the rename: a version counts once its manifest is
there, which is written last, and Triton loads it once the configuration says so, which is written after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from export.errors import ExportError, LockedError, UsageError
from export.publish.lease import LEASE_S, Leases
from export.publish.repository import CONFIG, MANIFEST


class FsspecRepository:
    """Models below `url` (`s3://bucket/prefix`); locks lie in a sibling prefix, where Triton does not look."""

    def __init__(self, url: str, now: Callable[[], float] = time.time, lease_s: float = LEASE_S) -> None:
        try:
            self._fs: Any
            self._fs, path = importlib.import_module("fsspec.core").url_to_fs(
                url, use_listings_cache=False, skip_instance_cache=True
            )
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: {error} (S3 needs: pip install 'sluice[s3]')") from error
        self._root = path.rstrip("/")
        if "/" not in self._root.strip("/") and not url.startswith(("file:", "memory:")):
            raise UsageError(f"{url}: give a prefix inside the bucket; locks are kept beside it")
        self._url = url
        self._leases = Leases(self._fs, self._errors, now, lease_s)

    @property
    def url(self) -> str:
        """As the user wrote it."""
        return self._url

    @property
    def side(self) -> Path:
        """A cache directory of this machine."""
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "sluice" / hashlib.sha256(self._url.encode()).hexdigest()[:16]

    def prepare(self) -> None:
        """Make sure that the storage answers; ExportError with its reason."""
        self.side.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._fs.exists(self._root)

    def lock(self, name: str, timeout_s: float) -> AbstractContextManager[None]:
        """A lease; whatever decides what counts is written only while it is still held."""
        return self._leases.hold(self._key(name), timeout_s)

    def models(self) -> list[str]:
        """Prefixes that hold a config.pbtxt."""
        return sorted(path.split("/")[-2] for path in self._find(self._root, depth=2) if path.endswith(f"/{CONFIG}"))

    def versions(self, name: str) -> list[int]:
        """Numbered prefixes whose manifest is there."""
        found = [path.split("/")[-2] for path in self._find(f"{self._root}/{name}", 2) if path.endswith(f"/{MANIFEST}")]
        return sorted(int(number) for number in found if number.isdigit() and number != "0")

    def files(self, name: str, version: int) -> list[str]:
        """Keys below the version."""
        base = f"{self._root}/{name}/{version}"
        return sorted(path.removeprefix(f"{base}/").lstrip("/") for path in self._find(base, None))

    def read(self, name: str, version: int, path: str) -> bytes:
        """One object."""
        with self._errors():
            data: bytes = self._fs.cat_file(f"{self._root}/{name}/{version}/{path}")
        return data

    def config(self, name: str) -> str | None:
        """config.pbtxt, or None."""
        try:
            with self._errors():
                data: bytes = self._fs.cat_file(f"{self._root}/{name}/{CONFIG}")
        except FileNotFoundError:
            return None
        return data.decode()

    def write_config(self, name: str, text: str) -> None:
        """One put."""
        self._leases.confirm(self._key(name))
        with self._errors():
            self._fs.pipe_file(f"{self._root}/{name}/{CONFIG}", text.encode())

    def add_version(self, name: str, version: int, staged: Path, config: str | None) -> None:
        """Data, then the manifest, then the configuration; what was uploaded is removed when any of it fails."""
        if version in self.versions(name):
            raise ExportError(f"{name} version {version} exists; versions never change")
        base = f"{self._root}/{name}/{version}"
        data = sorted(path for path in staged.rglob("*") if path.is_file() and path.name != MANIFEST)
        try:
            with self._errors():
                if self._fs.exists(base):  # without a manifest: what a killed publisher had uploaded
                    self._fs.rm(base, recursive=True)
            for path in [*data, staged / MANIFEST]:
                self._leases.confirm(self._key(name))
                with self._errors():
                    self._fs.put_file(str(path), f"{base}/{path.relative_to(staged)}")
        except LockedError:  # what lies there may be the version of who has the lease now
            raise
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm(base, recursive=True)
            raise
        if config is not None:
            self.write_config(name, config)

    def remove_version(self, name: str, version: int) -> None:
        """The manifest first: without it the version no longer counts."""
        self._leases.confirm(self._key(name))
        base = f"{self._root}/{name}/{version}"
        with self._errors():
            self._fs.rm_file(f"{base}/{MANIFEST}")
            if self._fs.exists(base):
                self._fs.rm(base, recursive=True)

    def remove_model(self, name: str) -> None:
        """The configuration first: without it Triton has no model."""
        self._leases.confirm(self._key(name))
        with self._errors():
            self._fs.rm_file(f"{self._root}/{name}/{CONFIG}")
            if self._fs.exists(f"{self._root}/{name}"):
                self._fs.rm(f"{self._root}/{name}", recursive=True)

    def staging(self, name: str) -> Path:
        """A local directory."""
        base = self.side / "staging"
        base.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=base))

    def _find(self, path: str, depth: int | None) -> list[str]:
        with self._errors():
            found: list[str] = self._fs.find(path, maxdepth=depth)
        return found

    def _key(self, name: str) -> str:
        return f"{self._root}.sluice/locks/{name}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:  # each storage has exceptions of its own
            raise ExportError(f"{self._url}: {type(error).__name__}: {str(error)[:300]}") from error
