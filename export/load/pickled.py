"""SPEC FILE.pt, .pth or .pkl: a pickled module. Unpickling runs its author's code, hence `--trust`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.errors import Step, StepError
from export.exportable import Exportable
from export.load.factory import as_exportable, named_inputs


def load(path: Path, *, trust: bool, samples: dict[str, Any] | None) -> Exportable:
    """A pickled Exportable, (module, example inputs), or a module whose examples come from --samples."""
    if not trust:
        raise StepError(
            Step.LOAD, f"{path} is a pickle, and loading it runs whatever it says; pass --trust if you trust it"
        )
    try:
        made = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise StepError(Step.LOAD, f"{path} cannot be unpickled: {type(error).__name__}: {error}") from error
    return from_module(made, samples, str(path))


def from_module(made: Any, samples: dict[str, Any] | None, where: str) -> Exportable:
    """Whatever was stored, with examples from `samples` when it has none of its own."""
    if not isinstance(made, nn.Module):
        return as_exportable(made, where)
    if samples is None:
        raise StepError(Step.LOAD, f"{where} is a bare module; give example inputs with --samples FILE.npz")
    examples = {name: torch.from_numpy(values[:3]) for name, values in samples.items()}
    return Exportable(module=made.eval(), inputs=named_inputs(made, examples), samples=samples)
