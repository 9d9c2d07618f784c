"""SPEC mlflow:models:/... or mlflow:runs:/...: a model of an MLflow tracking store."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from export.errors import Step, StepError
from export.load.loaded import Loaded


def load(uri: str, *, trust: bool, samples: dict[str, Any] | None) -> Loaded:
    """Its `onnx` flavor, else its `pytorch` flavor; the input example that was logged serves as samples."""
    try:
        artifacts = importlib.import_module("mlflow.artifacts")
    except ImportError as error:
        raise StepError(Step.LOAD, "MLflow is not installed: pip install 'sluice[mlflow]'") from error
    try:
        directory = Path(artifacts.download_artifacts(artifact_uri=uri))
    except Exception as error:
        raise StepError(Step.LOAD, f"{uri}: {str(error).splitlines()[0][:300]}") from error
    described = yaml.safe_load((directory / "MLmodel").read_text())
    flavors = described.get("flavors", {})
    given = samples or _input_example(directory, described)
    if "onnx" in flavors:
        from export.load.onnx_file import OnnxFile  # noqa: PLC0415

        return OnnxFile(directory / flavors["onnx"]["data"], given)
    if "pytorch" in flavors:
        from export.load.pickled import load as load_pickle  # noqa: PLC0415
        from export.load.torch_model import TorchModel  # noqa: PLC0415

        data = directory / flavors["pytorch"].get("model_data", "data")
        program = next(iter(sorted(data.glob("*.pt2"))), None)
        if program is not None:
            from export.load.pt2 import Program  # noqa: PLC0415

            return Program(program)
        found = next(iter(sorted(data.glob("*.pth"))), None)
        if found is None:
            raise StepError(Step.LOAD, f"{uri}: its pytorch flavor holds neither .pt2 nor .pth")
        return TorchModel(load_pickle(found, trust=trust, samples=given))
    raise StepError(Step.LOAD, f"{uri}: flavors are {sorted(flavors)}; onnx or pytorch is needed")


def _input_example(directory: Path, described: dict[str, Any]) -> dict[str, Any] | None:
    info = described.get("saved_input_example_info")
    if not info:
        return None
    path = directory / info.get("serving_input_path", "serving_input_example.json")
    if not path.is_file():
        return None
    content = json.loads(path.read_text()).get("inputs")
    if content is None:
        return None
    named = content if isinstance(content, dict) else {"input_0": content}
    return {name: _as_array(values) for name, values in named.items()}


def _as_array(values: Any) -> Any:
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float64 else array
