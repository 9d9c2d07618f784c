"""How a SPEC becomes a model that can be exported and compared with."""

from __future__ import annotations

from typing import Any

from export.load.loaded import Card, Loaded
from export.spec import FactorySpec, HuggingFaceSpec, MlflowSpec, OnnxSpec, PickleSpec, Pt2Spec, Spec

__all__ = ["Card", "Loaded", "load"]


def load(spec: Spec, *, trust: bool, samples: dict[str, Any] | None) -> Loaded:
    """Load whatever `spec` names; StepError(LOAD) says why not. Torch is imported only where the kind needs it."""
    match spec:
        case OnnxSpec(path=path):
            from export.load.onnx_file import OnnxFile  # noqa: PLC0415

            return OnnxFile(path)
        case MlflowSpec(uri=uri):
            from export.load import mlflow_model  # noqa: PLC0415

            return mlflow_model.load(uri, trust=trust, samples=samples)
        case Pt2Spec(path=path):
            from export.load.pt2 import Program  # noqa: PLC0415

            return Program(path)
    from export.load.torch_model import TorchModel  # noqa: PLC0415

    match spec:
        case FactorySpec(module=module, factory=name):
            from export.load import factory  # noqa: PLC0415

            return TorchModel(factory.load(module, name))
        case HuggingFaceSpec(path=path):
            from export.load import huggingface  # noqa: PLC0415

            return TorchModel(huggingface.load(path, trust=trust))
        case PickleSpec(path=path):
            from export.load import pickled  # noqa: PLC0415

            return TorchModel(pickled.load(path, trust=trust, samples=samples))
