"""Compositions go through named steps like exports: what was done is resumed, and a refusal leaves its script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from export.cli import app
from export.compose.run import ComposeRequest, run
from export.errors import Step, StepError
from export.publish import upkeep
from export.publish.open import open_repository
from tests.export.conftest import Exporter

_DEADLINE_S = 170
# The composing process is killed where the condition first holds: an expression over an audit event (PEP 578).
_COMPOSE = """
import os, signal, sys
from export.compose.run import ComposeRequest, run
def hook(event, args):
    if {condition}:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
run(ComposeRequest.model_validate_json(sys.argv[1]))
"""
_BEFORE_THE_FIRST = 'event == "os.rename" and str(args[1]).endswith("/repo/front_tokenizer")'
_BETWEEN_THE_TWO = 'event == "os.rename" and str(args[1]).endswith("/repo/front")'


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory, export_into: Exporter) -> Path:
    """A repository with both encoders; each test gives its compositions a name of their own, or copies it."""
    repo = tmp_path_factory.mktemp("encoders") / "repo"
    for name in ("masked", "leaking"):
        export_into(repo, f"tests.export.encoders:{name}", name, max_batch=8)
    return repo


def _killed(request: ComposeRequest, condition: str) -> None:
    command = [sys.executable, "-c", _COMPOSE.format(condition=condition), request.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    assert done.returncode == -9, done.stderr


def test_killed_composition_is_resumed(encoders: Path) -> None:
    """Killed before and between publishing its two models: readers see whole models, and a rerun asks no Triton."""
    request = ComposeRequest(kind="text", name="front", repo=str(encoders), part="masked", serve_check="local")
    repository = open_repository(str(encoders))
    for condition, there in ((_BEFORE_THE_FIRST, []), (_BETWEEN_THE_TWO, ["front_tokenizer"])):
        _killed(request, condition)
        assert [name for name in repository.models() if name.startswith("front")] == there
        assert not any(finding.problems for finding in upkeep.check(repository, None))
    result = run(request)
    assert [(report.step, report.status) for report in result.reports] == [
        ("config", "ok"),
        ("serve-check", "resumed"),
        ("publish", "ok"),
    ]
    assert result.versions == {"front_tokenizer": 1, "front": 1}
    manifest = json.loads((encoders / "front" / "1" / "manifest.json").read_text())
    assert 0 <= manifest["observed"]["served"]["embedding"]["excess"] <= 1
    assert not list((encoders.parent / ".repo.sluice" / "work").iterdir())
    upkeep.collect(repository, None, keep=2, dry_run=False)
    assert not list((encoders.parent / ".repo.sluice" / "staging").iterdir())
    again = run(request.model_copy(update={"fresh": True, "serve_check": "off"}))
    assert again.versions == result.versions


def test_refused_composition_leaves_a_script_that_refuses_again(encoders: Path) -> None:
    """An encoder that padding leaks into answers Triton's tokens differently: refused, nothing published, told why."""
    before = open_repository(str(encoders)).models()
    arguments = ["text", "leaky", "--repo", str(encoders), "--encoder", "leaking", "--serve-check", "local"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == Step.SERVE_CHECK.value, done.output
    assert "failed" in done.stdout
    assert open_repository(str(encoders)).models() == before
    (kept,) = (encoders.parent / ".repo.sluice" / "failures").glob("leaky-*")
    assert {"repro.py", "error.txt", "request.json", "served.worst.npz", "triton.log"} <= {
        path.name for path in kept.iterdir()
    }
    with np.load(kept / "served.worst.npz") as worst:
        assert worst["text"].dtype.kind == "S"
        assert not np.allclose(worst["served.embedding"], worst["expected.embedding"], rtol=1e-3)
    script = [sys.executable, kept / "repro.py"]
    again = subprocess.run(script, capture_output=True, timeout=_DEADLINE_S, check=False)
    assert again.returncode == Step.SERVE_CHECK.value


def test_piece_that_does_not_fit_is_refused_before_any_is_published(encoders: Path) -> None:
    """Where the second model's name is taken by another, the first is not published either."""
    with pytest.raises(StepError, match="differs in") as caught:
        run(ComposeRequest(kind="text", name="masked", repo=str(encoders), part="masked", serve_check="off"))
    assert caught.value.step is Step.CONFIG
    assert "masked_tokenizer" not in open_repository(str(encoders)).models()
    done = CliRunner().invoke(app, ["text", "../out", "--repo", str(encoders), "--encoder", "masked"])
    assert done.exit_code == 2
    assert "--name" in done.stderr
