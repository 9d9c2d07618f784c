"""Each kind of SPEC, from its file to a published version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.errors import UsageError
from export.spec import FactorySpec, MlflowSpec, parse
from export.zoo import shapes
from tests.export.conftest import Exporter


def _manifest(repo: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((repo / name / "1" / "manifest.json").read_text())
    return data


def test_saved_program_keeps_its_dynamic_dimensions(tmp_path: Path, export_into: Exporter) -> None:
    """A .pt2 file is exported with the batch and the second dimension it was saved with."""
    made = shapes.detector()
    dims = {"features": {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("anchors", min=1, max=40)}}
    program = torch.export.export(made.module, (), dict(made.inputs), dynamic_shapes=dims)
    torch.export.save(program, tmp_path / "detector.pt2")
    export_into(tmp_path / "repo", str(tmp_path / "detector.pt2"), "detector", max_batch=8)
    record = _manifest(tmp_path / "repo", "detector")
    assert [output["name"] for output in record["outputs"]] == ["boxes", "scores"]
    assert record["axes"]["features"]["1"]["high"] <= 40
    assert any(case.endswith("-1") and not case.startswith("batch") for case in record["cases"])


def test_onnx_file_is_its_own_reference(small_zoo: Path, tmp_path: Path, export_into: Exporter) -> None:
    """A finished .onnx goes through the same checks, and its bytes are judged against its own unoptimised answers."""
    export_into(tmp_path / "repo", str(small_zoo / "mixed" / "1" / "model.onnx"), "mixed", max_batch=8)
    record = _manifest(tmp_path / "repo", "mixed")
    assert record["source"] == "onnx"
    assert set(record["observed"]["parity"]) == {"score", "gate", "nearest"}


def test_hugging_face_directory(tmp_path: Path, export_into: Exporter) -> None:
    """A directory that transformers saved, safetensors only, needs no factory and no trust."""
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=100, dim=16, n_heads=2, n_layers=1, hidden_dim=32, max_position_embeddings=32)
    DistilBertModel(config).save_pretrained(tmp_path / "tiny")
    export_into(tmp_path / "repo", str(tmp_path / "tiny"), "tiny", max_batch=4)
    record = _manifest(tmp_path / "repo", "tiny")
    assert record["labels"]["architecture"] == "DistilBertModel"
    assert "tokens-32" in record["cases"]


def test_trusted_pickle_with_samples(tmp_path: Path, export_into: Exporter) -> None:
    """A bare pickled module is exported with --trust and the user's own samples, which also fill the histograms."""
    torch.save(shapes.rank_one().module, tmp_path / "model.pt")
    np.savez(tmp_path / "rows.npz", features=np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32))
    options = {"trust": True, "samples": tmp_path / "rows.npz", "max_batch": 8}
    export_into(tmp_path / "repo", str(tmp_path / "model.pt"), "pickled", **options)
    record = _manifest(tmp_path / "repo", "pickled")
    assert record["samples_are"] == "user"
    assert sum(record["reference"]["features"]["counts"]) == 40 * 5


def test_kinds_are_told_from_the_text(tmp_path: Path) -> None:
    """What a SPEC is needs no import, and a text that is none of the kinds names them all."""
    assert parse("package.module:factory") == FactorySpec("package.module", "factory")
    assert parse("mlflow:models:/n@a") == MlflowSpec("models:/n@a")
    for wrong in ("nothing", "mlflow:elsewhere", str(tmp_path / "missing.onnx"), str(tmp_path)):
        with pytest.raises(UsageError, match="SPEC"):
            parse(wrong)
