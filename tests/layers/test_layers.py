"""Who may import whom, read from the sources."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]

# The most that a package may import of Sluice, besides itself. One name covers what lies below it.
ALLOWED = {
    "gateway.core": {"gateway.errors"},
    "gateway.http": {"gateway.errors", "gateway.config", "gateway.core.pool"},
    "gateway.localtriton": {"gateway.errors", "gateway.cli_output"},
    "gateway.errors": set(),
}
# Decisions take time, chance and I/O as arguments, so these have no business in the core.
EFFECTS = {
    "asyncio", "selectors", "socket", "ssl", "subprocess", "threading", "multiprocessing", "logging", "structlog",
    "time", "datetime", "random", "secrets", "http", "urllib3", "httptools", "uvloop", "sqlalchemy", "fastapi",
}  # fmt: skip
# What only the other parts need: the gateway installs and starts without any of it.
HEAVY = [
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "transformers",
    "sklearn",
    "locust",
    "matplotlib",
    "tritonclient",
]


@cache
def graph() -> grimp.ImportGraph:
    """The import graph of everything, other packages included as one node each."""
    return grimp.build_graph("gateway", "export", "loadtest", include_external_packages=True)


def within(module: str, package: str) -> bool:
    """Whether a module is the package or lies in it."""
    return module == package or module.startswith(f"{package}.")


def imports_of(package: str) -> list[tuple[str, str]]:
    """(importer, imported) for every import that leaves the package."""
    return [
        (module, imported)
        for module in graph().modules
        if within(module, package)
        for imported in graph().find_modules_directly_imported_by(module)
        if not within(imported, package)
    ]


def test_contracts_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """The contracts of .importlinter hold."""
    status = lint_imports(config_filename=str(ROOT / ".importlinter"), cache_dir=None, is_debug_mode=False)
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize("package", ALLOWED)
def test_a_layer_imports_only_what_it_may(package: str) -> None:
    """A low layer imports nothing of Sluice but the few modules listed for it."""
    assert [
        (importer, imported)
        for importer, imported in imports_of(package)
        if within(imported, "gateway") and not any(within(imported, allowed) for allowed in ALLOWED[package])
    ] == []


def test_the_core_has_no_effects() -> None:
    """The core imports no clock, no randomness, no I/O and no logging."""
    assert [pair for pair in imports_of("gateway.core") if pair[1].split(".")[0] in EFFECTS] == []


def test_only_export_imports_torch() -> None:
    """Torch stays out of the gateway and the load tests."""
    assert {importer.split(".")[0] for importer in graph().find_modules_that_directly_import("torch")} <= {"export"}


WITHOUT = """
import importlib, importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Absent())
"""


def run_without(absent: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter where some packages cannot be imported."""
    program = WITHOUT.format(absent=set(absent)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_the_blocker_blocks() -> None:
    """The test below would notice: a blocked package cannot be imported."""
    assert "No module named 'torch'" in run_without(HEAVY, "import torch").stderr


@pytest.mark.parametrize("module", ["gateway.app", "gateway.cli", "gateway.localtriton.server"])
def test_the_gateway_needs_no_torch(module: str) -> None:
    """The gateway's modules import with only the gateway's own dependencies."""
    result = run_without(HEAVY, f"importlib.import_module({module!r})")
    assert result.returncode == 0, result.stderr


def test_the_commands_need_no_torch() -> None:
    """`sluice --help` works where only the gateway is installed."""
    result = run_without(HEAVY, "sys.argv = ['sluice', '--help']\nfrom gateway.cli import main\nmain()")
    assert result.returncode == 0, result.stderr
    assert "serve" in result.stdout


def test_no_source_file_is_too_long() -> None:
    """One behaviour a file: at 400 lines it is split."""
    sources = [path for part in ("gateway", "export", "loadtest") for path in (ROOT / part).rglob("*.py")]
    assert sources
    too_long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources}
    assert {name: lines for name, lines in too_long.items() if lines > 400} == {}
