"""SPEC `module:factory`: a function of the user's own code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.errors import Step, StepError
from export.exportable import Exportable


def load(module_name: str, factory_name: str) -> Exportable:
    """Call the factory. It returns an Exportable, or a pair of module and example inputs (tensor, tuple or dict)."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # what `python -m` does, so that a file in the current directory is a SPEC
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except ModuleNotFoundError as error:
        raise StepError(Step.LOAD, f"cannot import {module_name!r}: {error}") from error
    except AttributeError:
        raise StepError(Step.LOAD, f"module {module_name!r} has no {factory_name!r}") from None
    try:
        made = factory()
    except StepError:
        raise
    except Exception as error:
        raise StepError(Step.LOAD, f"{module_name}:{factory_name} raised {type(error).__name__}: {error}") from error
    return as_exportable(made, f"{module_name}:{factory_name}")


def as_exportable(made: Any, where: str) -> Exportable:
    """Accept the short form (module, inputs)."""
    if isinstance(made, Exportable):
        return made
    if isinstance(made, tuple) and len(made) == 2:
        module, inputs = made
        return Exportable(module=module, inputs=named_inputs(module, inputs))
    raise StepError(
        Step.LOAD, f"{where} returns {type(made).__name__}; an Exportable or (module, example inputs) is needed"
    )


def named_inputs(module: Any, inputs: Any) -> dict[str, Any]:
    """Example inputs by the names that forward gives its arguments."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    try:
        code = module.forward.__code__
        names = list(code.co_varnames[1 : code.co_argcount])
    except AttributeError:
        names = []
    names += [f"input_{i}" for i in range(len(names), len(values))]
    return dict(zip(names, values, strict=False))
