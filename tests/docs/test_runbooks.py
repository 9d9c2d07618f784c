"""Runbooks, tried before they are needed: every command of theirs runs against a real Triton and gateway."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.conftest import Place
from tests.docs.pages import ROOT, shell_lines

RUNBOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))
_ROUTE = {
    "name": "digits",
    "variants": [
        {"name": "v1", "model": "digits", "version": "1", "weight": 100},
        {"name": "v2", "model": "digits", "version": "2"},
    ],
    "rollout": {},
}


def run(line: str, place: Place, folder: Path) -> subprocess.CompletedProcess[str]:
    """One line of a shell."""
    shell = shutil.which("bash")
    assert shell
    command = [shell, "-c", place.here(line)]
    env = place.environment()
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=120, check=False)


@pytest.fixture(scope="module")
def rolling(running: Place, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Path]:
    """A rollout is under way, as most runbooks suppose; with the directory in which somebody looks."""
    folder = tmp_path_factory.mktemp("looking")
    (folder / "model_repository").symlink_to(repository)
    running.gateway.apply([_ROUTE])
    started = run("sluice rollout start digits --candidate v2", running, folder)
    assert started.returncode == 0, started.stderr
    return running, folder


def test_every_runbook_says_where_to_look() -> None:
    """At least one command."""
    assert [page.stem for page in RUNBOOKS if not list(shell_lines(page))] == []


@pytest.mark.parametrize("line", sorted({line.strip() for page in RUNBOOKS for line in shell_lines(page)}))
def test_what_a_runbook_looks_at_can_be_looked_at(line: str, rolling: tuple[Place, Path]) -> None:
    """The command ends well and shows something."""
    result = run(line, *rolling)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip()
    if "%{http_code}" in line:
        assert result.stdout == "200\n"
