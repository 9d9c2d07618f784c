"""A load that is given up on a real Triton goes on inside it; what it brings is taken away all the same."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from gateway.core.rollout import Command
from gateway.core.rollout_policy import RolloutPolicy
from gateway.localtriton.server import LocalTriton
from tests.delivery.plane import plane
from tests.triton import zoo

_SLOW = """
from pathlib import Path
Path({begun!r}).touch()
until = time.monotonic() + 90
while not Path({go!r}).exists() and time.monotonic() < until:
    time.sleep(0.02)
"""


def _repository(place: Path) -> Path:
    """Version 1 is served; version 2 says when its load has begun, and ends it when it may."""
    root = place / "repository"
    root.mkdir()
    (zoo.build(place / "zoo") / "slow").rename(root / "m")
    config, source = root / "m" / "config.pbtxt", (root / "m" / "1" / "model.py").read_text()
    config.write_text(config.read_text() + "version_policy { specific { versions: 1 } }\n")
    (root / "m" / "2").mkdir()
    slow = _SLOW.format(begun=str(place / "begun"), go=str(place / "go"))
    (root / "m" / "2" / "model.py").write_text(source + slow)
    return root


def _ready(url: str) -> set[str]:
    rows = httpx.post(f"{url}/v2/repository/index", trust_env=False, timeout=60).json()
    return {row["version"] for row in rows if row["name"] == "m" and row.get("state") == "READY"}


@pytest.mark.timeout(180)
def test_a_load_that_was_given_up_is_undone_when_it_ends(tmp_path: Path) -> None:
    """Aborted while loading: no traffic was sent, and the rollout is over only once the version is gone again."""

    async def check(url: str) -> None:
        async with plane(tmp_path, url) as at:
            run = await at.start(RolloutPolicy())
            await at.look_until(run, (tmp_path / "begun").exists, 60)
            asked = run.ask(Command(id="1", kind="abort", by="ann"))
            # Longer than Triton is waited for when it is asked what it has.
            later = time.monotonic() + 5.0
            await at.look_until(run, lambda: time.monotonic() >= later)
            assert (await asked).event == "abort"
            assert run.record.state.phase.value == "aborting"
            (tmp_path / "go").touch()
            await at.look_until(run, lambda: run.record.state.final, 60)
            assert run.record.state.phase.value == "aborted"

    with LocalTriton(_repository(tmp_path), log_file=tmp_path / "log", exit_timeout_s=1) as triton:
        assert _ready(triton.http_url) == {"1"}
        asyncio.run(check(triton.http_url))
        assert _ready(triton.http_url) == {"1"}
