"""Where the files of a real Triton lie: inside the `nvidia-pytriton` wheel, and the shared libpython of its stub.

Only the wheel's files are used, never its Python package, whose dependencies do not fit ours. One of them does matter:
the stub was compiled against numpy 1 and reads numpy 2's arrays wrongly (every element comes out as the first one, and
outputs have no bytes), so a numpy 1 of its own is kept beside the environment.
"""

import ctypes
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gateway.errors import ResourceError

DISTRIBUTION = "nvidia-pytriton"
STUB_NUMPY = "numpy==1.26.4"


@dataclass(frozen=True, slots=True)
class Wheel:
    """The installed wheel's parts that a server needs.

    Attributes:
        version: the wheel's version (not Triton's).
        server: the tritonserver program.
        python_backend: directory of libtriton_python.so and its Python helper.
        stub: the Python backend's helper program for the running Python version.
        libraries: directory of the shared libraries that all of them link to.
    """

    version: str
    server: Path
    python_backend: Path
    stub: Path
    libraries: Path


def python_version() -> str:
    """Version of the running Python as `3.11`, which is how the wheel names its stubs."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def locate(distribution: str = DISTRIBUTION) -> Wheel:
    """Find the wheel's files.

    Raises:
        ResourceError: the wheel is not installed, is damaged, or has no stub for this Python; says how to mend it.
    """
    remedy = f"pip install --no-deps {DISTRIBUTION}==0.7.0"
    try:
        installed = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        raise ResourceError(f"no local Triton: the package {distribution} is not installed; run: {remedy}") from None
    root = Path(str(installed.locate_file("pytriton/tritonserver")))
    libraries = Path(str(installed.locate_file("nvidia_pytriton.libs")))
    stubs = root / "python_backend_stubs"
    wheel = Wheel(
        version=installed.version,
        server=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=stubs / python_version() / "triton_python_backend_stub",
        libraries=libraries,
    )
    for path in (wheel.server, wheel.python_backend / "libtriton_python.so", libraries):
        if not path.exists():
            raise ResourceError(f"{distribution} {wheel.version} is damaged, {path} is missing; run: {remedy}")
    if not wheel.stub.is_file():
        known = ", ".join(sorted(path.name for path in stubs.iterdir()))
        raise ResourceError(
            f"{distribution} {wheel.version} serves Python {known}, not {python_version()}: use one of these versions"
        )
    return wheel


def stub_packages(prefix: Path | None = None) -> Path | None:
    """Directory with the numpy 1 that the stub needs, or None when the environment's own numpy is one.

    Args:
        prefix: the Python environment to look in; the running one by default.

    Raises:
        ResourceError: there is none; says how to install it.
    """
    if int(metadata.version("numpy").split(".", 1)[0]) < 2:
        return None
    directory = (Path(sys.prefix) if prefix is None else prefix) / "share" / "sluice" / "triton-python"
    if not (directory / "numpy" / "__init__.py").is_file():
        raise ResourceError(
            "Triton's Python backend needs a numpy 1 beside the installed numpy 2; run: "
            f"{sys.executable} -m pip install --no-deps --target {directory} {STUB_NUMPY}"
        )
    return directory


def libpython_directory(name: str | None = None) -> Path | None:
    """Directory to put on the library path for the stub's libpython, or None when the loader finds it by itself.

    The library of the running interpreter comes first, because it fits its standard library exactly.

    Raises:
        ResourceError: the library is neither beside the interpreter nor known to the loader; says how to get it.
    """
    name = name or f"libpython{python_version()}.so.1.0"
    own = Path(str(sysconfig.get_config_var("LIBDIR") or "")) / name
    if own.is_file():
        return own.parent
    try:
        ctypes.CDLL(name)
    except OSError:
        raise ResourceError(
            f"Triton's Python backend needs the shared library {name}, which was not found; on Debian or Ubuntu run: "
            f"apt-get install libpython{python_version()}"
        ) from None
    return None
