"""A repository in a directory: staged beside the root, renamed in."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from export.errors import ExportError
from export.publish import lock
from export.publish.repository import CONFIG


class LocalRepository:
    """Directory `root`. Work lies in `.<root>.sluice` beside it; inside, Triton would take it for a model."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._side = self.root.parent / f".{self.root.name}.sluice"

    @property
    def url(self) -> str:
        """The directory."""
        return str(self.root)

    @property
    def side(self) -> Path:
        """The sibling directory."""
        return self._side

    def prepare(self) -> None:
        """Create root and side; ExportError when they cannot be written or a rename between them is no rename."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._side.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportError(f"{self.root}: {error.strerror}") from error
        if self.root.stat().st_dev != self._side.stat().st_dev:
            raise ExportError(
                f"{self.root} is a mount point of its own, so nothing can be renamed into it from beside it; "
                "use a directory inside the mount as the repository"
            )
        for directory in (self.root, self._side):
            if not os.access(directory, os.W_OK | os.X_OK):
                raise ExportError(f"{directory} is not writable")

    def lock(self, name: str, timeout_s: float) -> AbstractContextManager[None]:
        """A kernel lock on a file in the side directory."""
        return lock.hold(self._side / "locks" / f"{name}.lock", timeout_s)

    def models(self) -> list[str]:
        """Directories that hold a config.pbtxt."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{CONFIG}"))

    def versions(self, name: str) -> list[int]:
        """Numbered directories."""
        try:
            entries = list((self.root / name).iterdir())
        except OSError:
            return []
        return sorted(int(path.name) for path in entries if path.is_dir() and path.name.isdigit() and path.name != "0")

    def files(self, name: str, version: int) -> list[str]:
        """All files below the version directory."""
        base = self.root / name / str(version)
        return sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())

    def read(self, name: str, version: int, path: str) -> bytes:
        """One file."""
        return (self.root / name / str(version) / path).read_bytes()

    def config(self, name: str) -> str | None:
        """config.pbtxt, or None."""
        try:
            return (self.root / name / CONFIG).read_text("utf-8")
        except FileNotFoundError:
            return None

    def write_config(self, name: str, text: str) -> None:
        """Written beside the root, then renamed over the old one."""
        scratch = self.staging(name) / CONFIG
        try:
            _write(scratch, text.encode())
            scratch.replace(self.root / name / CONFIG)
            _sync(self.root / name)
        finally:
            shutil.rmtree(scratch.parent, ignore_errors=True)

    def add_version(self, name: str, version: int, staged: Path, config: str | None) -> None:
        """One rename: of the version directory, or of the whole model directory when the model is new."""
        for path in staged.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
                _sync(path)
            else:
                path.chmod(0o755)
                _sync(path)
        staged.chmod(0o755)
        model = self.root / name
        if config is not None and not model.exists():
            whole = self.staging(name)
            try:
                whole.chmod(0o755)
                staged.rename(whole / str(version))
                _write(whole / CONFIG, config.encode())
                _sync(whole)
                whole.rename(model)
            except BaseException:
                shutil.rmtree(whole, ignore_errors=True)
                raise
            _sync(self.root)
            return
        target = model / str(version)
        if target.exists():
            raise ExportError(f"{name} version {version} exists; versions never change")
        staged.rename(target)
        _sync(model)
        if config is not None:
            self.write_config(name, config)

    def remove_version(self, name: str, version: int) -> None:
        """Renamed out in one step, then deleted."""
        self._bury(self.root / name / str(version), name)

    def remove_model(self, name: str) -> None:
        """Renamed out in one step, then deleted."""
        self._bury(self.root / name, name)

    def _bury(self, path: Path, name: str) -> None:
        grave = self.staging(name)
        try:
            path.rename(grave / path.name)
            _sync(path.parent)
        finally:
            shutil.rmtree(grave, ignore_errors=True)

    def staging(self, name: str) -> Path:
        """A fresh directory in the side directory."""
        base = self._side / "staging"
        base.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=base))


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
