"""The sample models keep the contract that docs/export.md gives to the demo and the load tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from export.publish import manifest as manifests
from export.serving import proto
from export.zoo.digits import split
from tests.export.conftest import Exporter


def _manifest(repo: Path, version: int) -> manifests.Manifest:
    return manifests.decode((repo / "digits" / str(version) / "manifest.json").read_bytes(), "manifest")


def test_accuracies_differ_as_told(samples: Path) -> None:
    """Version 2 beats 1, and version 3 looks clearly broken on pixels as they are served."""
    small, better, skewed = (_manifest(samples, v).metrics["held_out_accuracy"] for v in (1, 2, 3))
    assert better > 0.96
    assert 0.85 < small < better - 0.03
    assert skewed < small - 0.1


@pytest.mark.parametrize("version", [1, 2, 3])
def test_documented_split_gives_the_manifests_accuracy(samples: Path, version: int) -> None:
    """The recipe in docs/export.md needs scikit-learn alone, and the published bytes reach the recorded accuracy."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    _, held_out, _, truth = train_test_split(
        pixels.astype("float32"), digits, test_size=0.3, random_state=20, stratify=digits
    )
    session = onnxruntime.InferenceSession(samples / "digits" / str(version) / "model.onnx")
    (label,) = session.run(["label"], {"pixels": held_out})
    assert np.mean(label == truth) == pytest.approx(_manifest(samples, version).metrics["held_out_accuracy"], abs=1e-9)


def test_version_4_raises_on_pictures_that_no_check_has_seen(export_into: Exporter, tmp_path: Path) -> None:
    """It passes every check, answers each of its samples and what warms it up, and raises on most real pictures."""
    export_into(tmp_path / "repo", "export.zoo.digits:v4", "digits")
    session = onnxruntime.InferenceSession(tmp_path / "repo" / "digits" / "1" / "model.onnx")

    def raises(rows: npt.NDArray[np.float32]) -> bool:
        try:
            session.run(["label"], {"pixels": rows})
        except InvalidArgument:
            return True
        return False

    pixels = split().held_out_pixels
    assert not raises(np.where(pixels < 10, np.float32(0), pixels))
    assert not raises(np.zeros((64, 64), np.float32))
    bits = np.random.default_rng(1).integers(0, 256, (64, 256), np.uint8)
    assert not raises(bits.view(np.float32))
    assert 0.9 < np.mean([raises(row[None]) for row in pixels]) < 1


def test_configuration_says_everything_triton_would_guess(samples: Path) -> None:
    """Names, types, batch, queue bound, warm-up and a specific version policy stand in config.pbtxt."""
    config = proto.from_text((samples / "digits" / "config.pbtxt").read_text(), "config.pbtxt")
    assert [(t.name, list(t.dims)) for t in config.input] == [("pixels", [64])]
    assert [(t.name, list(t.dims), t.HasField("reshape")) for t in config.output] == [
        ("logits", [10], False),
        ("label", [1], True),
    ]
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 64
    assert list(config.version_policy.specific.versions) == [1, 2, 3]
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
    assert {sample.batch_size for sample in config.model_warmup} == {1, 64}


def test_nothing_is_left_in_or_beside_the_repository(samples: Path) -> None:
    """The root holds the model alone; work and staging directories are empty."""
    assert [path.name for path in samples.iterdir()] == ["digits"]
    side = samples.parent / ".repo.sluice"
    assert not list((side / "staging").iterdir())
    assert not list((side / "work").iterdir())
