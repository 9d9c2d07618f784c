"""SPEC mlflow:models:/... or mlflow:runs:/...: a model of an MLflow tracking store."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from export.errors import Step, StepError
from export.load.loaded import Loaded

_UNNAMED = "input_0"


def load(uri: str, *, trust: bool, samples: dict[str, Any] | None) -> Loaded:
    """Its `onnx` flavor, else its `pytorch` flavor (a pickle or an exported program); its example is a sample.

    MLflow exports `pt2` with Dim.AUTO, which leaves a batch of one static: such a model is refused like any other.
    """
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

        graph = directory / flavors["onnx"]["data"]
        return OnnxFile(graph, _fitted(given, OnnxFile(graph).card.examples))
    if "pytorch" in flavors:
        from export.load.pickled import load as load_pickle  # noqa: PLC0415
        from export.load.torch_model import TorchModel  # noqa: PLC0415

        data = directory / flavors["pytorch"].get("model_data", "data")
        program = next(iter(sorted(data.glob("*.pt2"))), None)
        if program is not None:
            from export.load.pt2 import Program  # noqa: PLC0415

            return Program(program, _fitted(given, Program(program).card.examples))
        found = next(iter(sorted(data.glob("*.pth"))), None)
        if found is None:
            raise StepError(Step.LOAD, f"{uri}: its pytorch flavor holds neither .pt2 nor .pth")
        return TorchModel(load_pickle(found, trust=trust, samples=given))
    raise StepError(Step.LOAD, f"{uri}: flavors are {sorted(flavors)}; onnx or pytorch is needed")


def _input_example(directory: Path, described: dict[str, Any]) -> dict[str, Any] | None:
    """Arrays by input name; an example that was one bare tensor goes by the name `input_0`."""
    info = described.get("saved_input_example_info")
    if not info:
        return None
    path = directory / info.get("serving_input_path", "serving_input_example.json")
    if not path.is_file():
        return None
    content = json.loads(path.read_text()).get("inputs")
    if content is None:
        return None
    named = content if isinstance(content, dict) else {_UNNAMED: content}
    types = _declared_types(described)
    return {name: _as_array(values, types.get(name)) for name, values in named.items()}


def _declared_types(described: dict[str, Any]) -> dict[str, str]:
    """Numpy type names by input, from the signature: JSON knows neither float32 nor int32."""
    inputs = json.loads((described.get("signature") or {}).get("inputs") or "[]")
    return {entry.get("name", _UNNAMED): entry["tensor-spec"]["dtype"] for entry in inputs if "tensor-spec" in entry}


def _as_array(values: Any, dtype: str | None) -> Any:
    array = np.asarray(values)
    if dtype is not None:
        return array.astype(dtype)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _fitted(given: dict[str, Any] | None, examples: Mapping[str, Any]) -> dict[str, Any] | None:
    """A bare tensor under the model's own name for its only input."""
    if given is not None and list(given) == [_UNNAMED] and len(examples) == 1:
        return dict(zip(examples, given.values(), strict=True))
    return given
