"""What Triton is started with: its backends, and a Python home for the processes in which models run.

Both are kept in a cache directory under a name that has a hash of their content; they appear by a rename, so concurrent
starts and killed ones do no harm.
"""

import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from gateway.localtriton.wheel import Wheel, python_version

SHIM = Path(__file__).parent / "shim" / "model.py"


def cache_root() -> Path:
    """Where assembled directories are kept: $XDG_CACHE_HOME/sluice, ~/.cache/sluice, or the temporary directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    for root in (Path(base).expanduser() / "sluice", Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}"):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(root, os.W_OK | os.X_OK):
            return root
    raise PermissionError("no writable cache directory")


def assemble(wheel: Wheel, root: Path | None = None) -> Path:
    """Return a directory with the backends `python` and `onnxruntime`.

    Files are copied: Triton refuses a backend library that a symbolic link leads out of its directory.

    Args:
        wheel: where to take Triton's own files from.
        root: where to keep the directory; the cache by default.

    Raises:
        OSError: no place to write to.
    """

    def fill(directory: Path) -> None:
        shutil.copytree(wheel.python_backend, directory / "python", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(wheel.stub, directory / "python")
        (directory / "onnxruntime").mkdir()
        shutil.copy2(SHIM, directory / "onnxruntime" / "model.py")

    content = f"{wheel.version} {python_version()} {wheel.stub.stat().st_size} {SHIM.read_text()}"
    return _keep("backends", content, fill, root)


def python_home(packages: Path | None, root: Path | None = None) -> Path:
    """Return a virtual environment that sees `packages` first and then the running environment's packages.

    The stub ignores PYTHONPATH; it takes the environment of the first `python3` on PATH.

    Args:
        packages: directory of packages that go before all others, if any.
        root: where to keep the environment; the cache by default.

    Raises:
        OSError: no place to write to.
    """
    base = Path(sys._base_executable)  # type: ignore[attr-defined]  # as the standard library's venv does
    paths = sysconfig.get_paths()
    lines = [str(packages)] if packages else []
    lines += dict.fromkeys([paths["purelib"], paths["platlib"]])

    def fill(directory: Path) -> None:
        site = directory / "lib" / f"python{python_version()}" / "site-packages"
        site.mkdir(parents=True)
        (site / "sluice.pth").write_text("\n".join(lines) + "\n")
        (directory / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
        (directory / "bin").mkdir()
        for name in ("python", "python3"):
            (directory / "bin" / name).symlink_to(base)

    return _keep("home", " ".join([str(base), *lines]), fill, root)


def _keep(kind: str, content: str, fill: Callable[[Path], None], root: Path | None) -> Path:
    root = cache_root() if root is None else root
    digest = hashlib.sha256(content.encode()).hexdigest()
    target = root / f"{kind}-{digest[:16]}"
    if target.is_dir():
        return target
    staging = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=root))
    try:
        fill(staging)
        staging.chmod(0o755)
        staging.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
