"""Models of a real local MLflow tracking store, in each form in which MLflow writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.errors import StepError
from export.zoo import shapes
from tests.export.conftest import Exporter

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and its ORM warn about each other
mlflow = pytest.importorskip("mlflow")
Log = Callable[..., Any]
_LINEAR = torch.nn.Sequential(torch.nn.Linear(5, 2)).eval()
_ROWS = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """`store(flavor, model, name, **options)` logs and registers a model, and calls it champion; its run's id.

    One store for all tests, because making its database takes MLflow seconds; each uses names of its own.
    """
    directory = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{directory}/mlflow.db"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", uri)
        environment.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        environment.setenv("DO_NOT_TRACK", "true")
        yield _open(directory, uri)


def _open(directory: Path, uri: str) -> Log:
    import mlflow.onnx
    import mlflow.pytorch

    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("tests", artifact_location=(directory / "artifacts").as_uri())

    def log(flavor: str, model: Any, name: str, **options: Any) -> str:
        with mlflow.start_run(experiment_id=experiment):
            # Naming the requirements keeps MLflow from finding them out by running the model in an environment.
            made = getattr(mlflow, flavor).log_model(
                model, name="model", registered_model_name=name, pip_requirements=["numpy"], **options
            )
        mlflow.MlflowClient().set_registered_model_alias(name, "champion", 1)
        return str(made.run_id)

    return log


def _manifest(repo: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((repo / name / "1" / "manifest.json").read_text())
    return data


def _by_alias_and_by_run(export_into: Exporter, repo: Path, name: str, run: str, **options: Any) -> dict[str, Any]:
    """The run holds the bytes that the alias named: the same version."""
    assert export_into(repo, f"mlflow:models:/{name}@champion", name, max_batch=4, **options).version == 1
    assert export_into(repo, f"mlflow:runs:/{run}/model", name, max_batch=4, **options).version == 1
    return _manifest(repo, name)


def test_pickled_module_needs_trust(tmp_path: Path, export_into: Exporter, store: Log) -> None:
    """A module that MLflow pickled is refused without --trust and exported with it, its example as the sample."""
    run = store("pytorch", _LINEAR, "linear", input_example=_ROWS, serialization_format="pickle")
    with pytest.raises(StepError, match="--trust"):
        export_into(tmp_path / "repo", "mlflow:models:/linear@champion", "linear", max_batch=4)
    record = _by_alias_and_by_run(export_into, tmp_path / "repo", "linear", run, trust=True)
    assert (record["source"], record["samples_are"]) == ("mlflow", "model")


def test_exported_program_needs_no_trust(tmp_path: Path, export_into: Exporter, store: Log) -> None:
    """MLflow's pt2 form is a torch.export program: nothing of it runs on loading, and its batch stays dynamic."""
    signature = mlflow.models.infer_signature(_ROWS, _ROWS[:, :2])
    options = {"input_example": _ROWS, "signature": signature, "serialization_format": "pt2"}
    run = store("pytorch", _LINEAR, "program", **options)
    record = _by_alias_and_by_run(export_into, tmp_path / "repo", "program", run)
    assert [tensor["name"] for tensor in record["inputs"]] == ["input"]
    assert record["samples_are"] == "model"
    assert record["reference"]["input"]["low"] == pytest.approx(float(_ROWS.min()))


def test_program_logged_with_one_row_is_refused(tmp_path: Path, export_into: Exporter, store: Log) -> None:
    """MLflow leaves a batch of one static in the program, so it could never be batched."""
    signature = mlflow.models.infer_signature(_ROWS[:1], _ROWS[:1, :2])
    options = {"input_example": _ROWS[:1], "signature": signature, "serialization_format": "pt2"}
    store("pytorch", _LINEAR, "single", **options)
    with pytest.raises(StepError, match="batch of 1 is baked in"):
        export_into(tmp_path / "repo", "mlflow:models:/single@champion", "single")


def test_onnx_flavor_with_its_external_data(tmp_path: Path, small_zoo: Path, export_into: Exporter, store: Log) -> None:
    """MLflow writes weights beside the graph; they are published inside it, and two named inputs keep their types."""
    example = {name: value.numpy() for name, value in shapes.mixed().inputs.items()}
    graph = onnx.load(small_zoo / "mixed" / "1" / "model.onnx")
    run = store("onnx", graph, "mixed", input_example=example, signature=mlflow.models.infer_signature(example))
    record = _by_alias_and_by_run(export_into, tmp_path / "repo", "mixed", run)
    assert (record["source"], record["samples_are"]) == ("mlflow", "model")
    assert [tensor["dtype"] for tensor in record["inputs"]] == ["float32", "int64"]
    assert set(record["files"]) == {"model.onnx"}


def test_what_the_store_does_not_hold_is_named(tmp_path: Path, export_into: Exporter, store: Log) -> None:
    """An alias that does not exist is a refusal at load with the store's own words."""
    store("pytorch", _LINEAR, "unnamed", serialization_format="pickle")
    with pytest.raises(StepError, match="nobody"):
        export_into(tmp_path / "repo", "mlflow:models:/unnamed@nobody", "unnamed")
