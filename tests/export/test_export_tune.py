"""Tuning on a real Triton: a setting that costs throughput is found and undone, a good one is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from export.cli import app
from export.serving import proto
from export.serving.client import Triton
from tests.export.conftest import Exporter

# Delays so long that nothing else matters: Triton 2.51's batcher, asked a thousand times a second, now and then sleeps
# for half a second whatever its delay is.
_FAST = ["--p99-ms", "2000", "--concurrency", "4", "--instances", "1", "-o", "json"]


def test_tune_beats_a_slow_queue_and_leaves_a_good_one(
    tmp_path: Path, export_into: Exporter, start_triton: Callable[..., Any]
) -> None:
    """A queue that holds four requests for 200 ms loses certainly to one of 20 ms; the reverse is not chosen.

    The chosen overlay goes back through the pipeline, and the configuration that was loaded is the same after tuning.
    """
    pytest.importorskip("matplotlib")
    repo = tmp_path / "repo"
    export_into(repo, "tests.export.broken:healthy", "live", queue_delay_us=200_000)
    url = start_triton(repo).http_url
    with Triton(url) as triton:
        before = triton.config("live", 1)
        arguments = ["tune", "live", "--triton", url, *_FAST]
        slow = _tuned(
            [
                *arguments,
                "--delay-us",
                "20000",
                "--delay-us",
                "100000",
                "--seconds",
                "1",
                "--pairs",
                "3",
                "--out",
                str(tmp_path / "slow"),
            ]
        )
        assert triton.config("live", 1) == before
        assert slow["chosen"] is not None, slow["reason"]
        assert slow["chosen"]["candidate"]["delay_us"] == 20_000
        assert slow["gain"]["mean"] >= slow["gain"]["low"] > 1
        assert slow["chosen"] in slow["front"]
        assert {path.name for path in (tmp_path / "slow").iterdir()} == {"result.json", "pareto.png", "overlay.pbtxt"}

        overlay = tmp_path / "slow" / "overlay.pbtxt"
        options = {"queue_delay_us": 200_000, "overlay": overlay, "reconfigure": True, "promote": True, "triton": url}
        export_into(repo, "tests.export.broken:other", "live", **options)
        config = proto.from_text((repo / "live" / "config.pbtxt").read_text(), "config.pbtxt")
        assert config.dynamic_batching.max_queue_delay_microseconds == 20_000
        good = _tuned(
            [*arguments, "--delay-us", "100000", "--seconds", "0.5", "--pairs", "2", "--out", str(tmp_path / "good")]
        )
        assert good["chosen"] is None
        assert good["gain"]["low"] < 1
        assert {path.name for path in (tmp_path / "good").iterdir()} == {"result.json", "pareto.png"}


def _tuned(arguments: list[str]) -> dict[str, Any]:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result
