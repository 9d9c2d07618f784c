"""The guide, followed word by word: its files are written and its commands run, against a real Triton and gateway."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.conftest import Place
from tests.docs.pages import ROOT, Block, blocks

GUIDE = ROOT / "docs/guide"
# What the fixtures do instead, what needs long, and what is about a machine.
_ELSEWHERE = ("sluice export", "sluice triton", "sluice serve --config sluice.yaml &", "sluice rollout plan", "make ")
# Load that takes seconds, whatever comes of it: held, missed, too little seen.
_SHORT = {
    "sluice loadtest run --scenario digits-open": " --duration 4 --level 60",
    "sluice loadtest run -s digits-binary": " --duration 10",
    "sluice loadtest knee": " --to 400",
}
_JUDGED = {0, 8, 9}


@pytest.mark.timeout(600)
def test_the_guide_does_what_it_says(running: Place, tmp_path: Path) -> None:
    """Serve, canary, shadow, roll back, run in production: files are accepted, commands end well, in that order."""
    env = running.environment()
    ran = 0
    for page in ("serve", "canary", "shadow", "roll-back", "production"):
        for block in blocks(GUIDE / f"{page}.md"):
            ran += _follow(Block(block.language, running.here(block.text)), page, tmp_path, env)
    assert ran > 15
    assert "version 2 answers nonsense" in subprocess.run(
        ["sluice", "history"], capture_output=True, text=True, env=env, check=True, timeout=120
    ).stdout.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_load_tests_run_as_the_guide_says(running: Place, tmp_path: Path) -> None:
    """Each question of the page is answered, by the commands as they stand but in seconds; the files are there."""
    route = {"name": "digits", "variants": [{"name": "v1", "model": "digits", "version": "1", "weight": 100}]}
    running.gateway.apply([route])
    ran = 0
    for block in blocks(GUIDE / "load-test.md"):
        text = "\n".join(line + _short(line) for line in block.text.splitlines())
        ran += _follow(Block(block.language, running.here(text)), "load-test", tmp_path, running.environment())
    assert ran == 5
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "run.html", "both.json"}


def _short(line: str) -> str:
    return next((more for command, more in _SHORT.items() if line.startswith(command)), "")


def _follow(block: Block, page: str, folder: Path, env: dict[str, str]) -> int:
    """Writes a file, runs a program or runs commands; returns how many ran."""
    if block.language == "yaml":
        file = block.text.splitlines()[0].removeprefix("# ").strip()
        (folder / file).write_text(block.text)
        return 0
    if block.language == "python":
        lines = [[sys.executable, "-c", block.text]]
    else:
        wanted = [line for line in block.text.splitlines() if not line.startswith(_ELSEWHERE)]
        shell = shutil.which("bash")
        assert shell
        lines = [[shell, "-c", line] for line in wanted if line]
    for line in lines:
        result = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=env, timeout=300, check=False)
        fine = _JUDGED if _short(line[-1]) else {0}
        assert result.returncode in fine, f"{page}: {line[-1]}\n{result.stdout}{result.stderr}"
        if "%{http_code}" in line[-1]:
            assert result.stdout == "200\n"
    return len(lines)
