"""The directory of backends that Triton is started with: the wheel's Python backend, and ours named `onnxruntime`."""

import hashlib
import os
import shutil
import tempfile
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
    """Return a directory with the backends `python` and `onnxruntime`, building it once per content.

    Files are copied: Triton refuses a backend library that a symbolic link leads out of its directory. The directory's
    name has a hash of what goes in, and it appears by a rename, so concurrent starts and killed ones do no harm.

    Raises:
        OSError: no place to write to.
    """
    root = cache_root() if root is None else root
    digest = hashlib.sha256(SHIM.read_bytes())
    digest.update(f"{wheel.version} {python_version()} {wheel.stub.stat().st_size}".encode())
    target = root / f"backends-{wheel.version}-py{python_version()}-{digest.hexdigest()[:12]}"
    if target.is_dir():
        return target
    staging = Path(tempfile.mkdtemp(prefix=".backends-", dir=root))
    try:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(wheel.python_backend, staging / "python", ignore=ignored)
        shutil.copy2(wheel.stub, staging / "python")
        (staging / "onnxruntime").mkdir()
        shutil.copy2(SHIM, staging / "onnxruntime" / "model.py")
        staging.chmod(0o755)
        staging.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
