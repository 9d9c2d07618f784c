"""The value every loader returns: a module with everything needed to export and judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    Array = npt.NDArray[np.generic]

BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension that varies from request to request, with the range in which it must work."""

    name: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Exportable:
    """A module in eval mode with example inputs.

    `inputs` maps each argument of `forward` to an example whose dimension 0 is the batch, of size two or more
    (a batch of one would be baked into the graph). `outputs` names the results in order; None takes dictionary
    keys, or `output`, `output_1`, ... `axes` gives the dynamic dimensions besides the batch, by input and dimension.
    `samples` are real inputs (rows of one request) for parity and for the reference distribution. `metrics` are
    quality figures measured before export, and `labels` are facts for the manifest.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str] | None = None
    axes: Mapping[str, Mapping[int, Axis]] = field(default_factory=dict)
    samples: Mapping[str, Array] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    batch_independent: bool = True
