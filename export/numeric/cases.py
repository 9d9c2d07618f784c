"""The inputs on which the served bytes must agree with eager PyTorch, and their file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.state import AxisInfo

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]
SAMPLE_ROWS = 256
_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class Case:
    """A named batch of inputs."""

    name: str
    inputs: Tensors


def batch_sizes(max_batch: int) -> list[int]:
    """1, 2, 3 and the largest: one is special to exporters, the example's own size hides a baked batch."""
    return sorted({1, 2, 3, max_batch} & set(range(1, max_batch + 1)))


def build(
    rows: Mapping[str, Array], axes: Mapping[str, Mapping[int, AxisInfo]], max_batch: int, *, real: bool
) -> list[Case]:
    """Cases over all batch sizes, the extremes of each dynamic axis at batch 2, and (when `real`) the samples.

    `rows` are whole rows; they are repeated when there are fewer than a batch needs.
    """
    cases = [Case(f"batch-{size}", _rows(rows, size)) for size in batch_sizes(max_batch)]
    bounds = {axis.name: axis for dims in axes.values() for axis in dims.values()}
    for axis in bounds.values():
        for length in sorted({axis.low, axis.high}):
            resized = _resize(_rows(rows, min(2, max_batch)), axes, axis.name, length)
            cases.append(Case(f"{axis.name}-{length}", resized))
    if real:
        count = min(len(next(iter(rows.values()))), SAMPLE_ROWS)
        for start in range(0, count, max_batch):
            chunk = {name: values[start : min(start + max_batch, count)] for name, values in rows.items()}
            cases.append(Case(f"samples-{start}", chunk))
    return cases


def synthetic(examples: Mapping[str, Array], count: int, seed: int) -> Tensors:
    """`count` rows like the examples: floats with their mean and deviation, integers and booleans drawn from them."""
    generator = np.random.default_rng(seed)
    made: Tensors = {}
    for name, example in examples.items():
        shape = (count, *example.shape[1:])
        if np.issubdtype(example.dtype, np.floating):
            spread = float(example.std()) or 1.0
            made[name] = generator.normal(float(example.mean()), spread, shape).astype(example.dtype)
        else:
            made[name] = generator.choice(example.reshape(-1), size=shape).astype(example.dtype)
    return made


def _rows(rows: Mapping[str, Array], size: int) -> Tensors:
    return {name: np.take(values, np.arange(size) % len(values), axis=0) for name, values in rows.items()}


def _resize(batch: Tensors, axes: Mapping[str, Mapping[int, AxisInfo]], symbol: str, length: int) -> Tensors:
    resized = dict(batch)
    for name, dims in axes.items():
        for dim, axis in dims.items():
            if axis.name == symbol:
                resized[name] = np.take(resized[name], np.arange(length) % resized[name].shape[dim], axis=dim)
    return resized


def save(path: Path, cases: list[Case], references: list[Tensors]) -> None:
    """Write inputs and reference outputs of every case into one .npz file."""
    arrays = {}
    for case, reference in zip(cases, references, strict=True):
        for kind, tensors in (("in", case.inputs), ("out", reference)):
            for name, values in tensors.items():
                arrays[_SEPARATOR.join((case.name, kind, name))] = values
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> dict[str, tuple[Tensors, Tensors]]:
    """Case name -> (inputs, reference outputs), in the order of writing."""
    cases: dict[str, tuple[Tensors, Tensors]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            case, kind, name = key.split(_SEPARATOR, 2)
            cases.setdefault(case, ({}, {}))[0 if kind == "in" else 1][name] = archive[key]
    return cases
