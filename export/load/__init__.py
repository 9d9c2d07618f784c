"""How a SPEC becomes a model that can be exported and compared with."""

from __future__ import annotations

from export.errors import Step, StepError
from export.load.loaded import Card, Loaded
from export.spec import FactorySpec, Spec

__all__ = ["Card", "Loaded", "load"]


def load(spec: Spec, *, trust: bool, max_batch: int) -> Loaded:
    """Load whatever `spec` names; StepError(LOAD) says why not. Imports torch only where the kind needs it."""
    from export.load.torch_model import TorchModel  # noqa: PLC0415

    if isinstance(spec, FactorySpec):
        from export.load import factory  # noqa: PLC0415

        return TorchModel(factory.load(spec.module, spec.factory))
    raise StepError(Step.LOAD, f"{type(spec).__name__} is not supported yet")
