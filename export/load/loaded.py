"""What the steps after loading need, whatever the SPEC was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from export.state import AxisInfo

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Card:
    """Facts about a loaded model. `examples` have two rows or more; `samples` are None when the model brings none."""

    examples: Mapping[str, Array]
    axes: Mapping[str, Mapping[int, AxisInfo]]
    samples: Mapping[str, Array] | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    batch_independent: bool = True


class Loaded(Protocol):
    """A model that can answer as the reference and be written as ONNX."""

    @property
    def card(self) -> Card:
        """Examples, dynamic axes and facts."""
        ...

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The fp32 answer, outputs by name and in order."""
        ...

    def write_onnx(self, path: Path, opset: int, max_batch: int) -> None:
        """Write the graph as `path`; StepError(EXPORT) says why it cannot be exported."""
        ...

    def weights_sha256(self) -> str:
        """A hash over names, types, shapes and values of all weights."""
        ...
