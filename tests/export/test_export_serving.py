"""A running Triton judges the bytes before they are published, and loads them after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.publish import upkeep
from export.publish.open import open_repository
from export.serving.client import Triton, TritonError
from tests.export.conftest import Exporter


def test_lent_checked_published_and_loaded(
    tmp_path: Path, export_into: Exporter, start_triton: Callable[..., Any]
) -> None:
    """With a running Triton, a version is checked there under another name, published, promoted, loaded and asked."""
    repo = tmp_path / "repo"
    export_into(repo, "tests.export.broken:healthy", "live")
    url = start_triton(repo).http_url
    result = export_into(repo, "tests.export.broken:other", "live", promote=True, serve_check=url, triton=url)
    steps = {report.step: report.status for report in result.reports}
    assert (steps["serve-check"], steps["reload"]) == ("ok", "ok")
    with Triton(url) as triton:
        assert {version for version, (state, _) in triton.states("live").items() if state == "READY"} == {1, 2}
        rows = {"features": np.ones((1, 5), dtype=np.float32)}
        first, second = (triton.infer("live", version, rows)["value"] for version in (1, 2))
        assert np.allclose(second - first, 1.0, atol=1e-5)
    manifest = json.loads((repo / "live" / "2" / "manifest.json").read_text())
    assert manifest["observed"]["served"]["value"]["excess"] <= 1
    assert upkeep.overview(open_repository(str(repo)))[0].served == [1, 2]


def test_own_triton_judges_and_goes(tmp_path: Path, export_into: Exporter) -> None:
    """`--serve-check local` starts a Triton through the command line, compares all cases, and leaves none running."""
    result = export_into(tmp_path / "repo", "export.zoo.shapes:rank_one", "rank_one", max_batch=4, serve_check="local")
    report = next(report for report in result.reports if report.step == "serve-check")
    assert report.status == "ok"
    assert report.output["cases"] >= 4
    url = report.output["triton"]
    with Triton(url, timeout_s=2) as triton, pytest.raises(TritonError, match="refused"):
        triton.states("rank_one")
