"""The reference distribution of inputs and outputs, which drift checks compare live traffic with."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
_BINS = 32
_DISTINCT = 64


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor's values, all elements together. `source` says whose they are (user, model or synthetic).

    Few distinct integers are counted one by one (`values`, `counts`); everything else in equally filled bins
    (`edges`, one more than `counts`): equal filling keeps a drift index meaningful in the tails.
    """

    source: str
    rows: int
    mean: float
    std: float
    low: float
    high: float
    values: list[int] = msgspec.field(default_factory=list)
    edges: list[float] = msgspec.field(default_factory=list)
    counts: list[int] = msgspec.field(default_factory=list)


def distributions(tensors: Mapping[str, Array], source: str) -> dict[str, Distribution]:
    """One Distribution for each numeric tensor that has values."""
    return {
        name: distribution(values, source)
        for name, values in tensors.items()
        if values.size and np.issubdtype(values.dtype, np.number)
    }


def distribution(values: Array, source: str) -> Distribution:
    """Of all finite elements of `values`."""
    flat = values.reshape(-1).astype(np.float64)
    flat = flat[np.isfinite(flat)]
    if flat.size == 0:
        return Distribution(source=source, rows=len(values), mean=0.0, std=0.0, low=0.0, high=0.0)
    summary = {
        "source": source, "rows": len(values), "mean": float(flat.mean()), "std": float(flat.std()),
        "low": float(flat.min()), "high": float(flat.max()),
    }  # fmt: skip
    if np.issubdtype(values.dtype, np.integer):
        distinct, counts = np.unique(values.reshape(-1), return_counts=True)
        if distinct.size <= _DISTINCT:
            return Distribution(**summary, values=[int(v) for v in distinct], counts=[int(c) for c in counts])  # type: ignore[arg-type]
    edges = np.unique(np.quantile(flat, np.linspace(0.0, 1.0, _BINS + 1)))
    if edges.size < 2:
        edges = np.array([edges[0], np.nextafter(edges[0], np.inf)])
    counts, _ = np.histogram(flat, bins=edges)
    return Distribution(**summary, edges=[float(e) for e in edges], counts=[int(c) for c in counts])  # type: ignore[arg-type]
