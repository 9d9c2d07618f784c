"""Artefacts that are exported once and shared: exporting is the slow part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.pipeline import Result, run
from export.request import ExportRequest

Exporter = Callable[..., Result]


@pytest.fixture(scope="session")
def export_into() -> Exporter:
    """Run the pipeline with defaults that suit tests."""

    def go(repo: Path, spec: str, name: str, **options: object) -> Result:
        options.setdefault("serve_check", "off")
        return run(ExportRequest.model_validate({"spec": spec, "repo": str(repo), "name": name, **options}))

    return go


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, export_into: Exporter) -> Path:
    """A repository with digits 1, 2, 3. Tests must not write into it."""
    repo = tmp_path_factory.mktemp("samples") / "repo"
    for version in (1, 2, 3):
        export_into(repo, f"export.zoo.digits:v{version}", "digits", promote=True)
    return repo
