"""Real inputs that the user brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.errors import Step, StepError
from export.load.loaded import Array


def read_samples(path: Path | None) -> dict[str, Array] | None:
    """The arrays of an .npz file by input name, all of one length; None without a path."""
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            rows = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise StepError(Step.LOAD, f"--samples {path}: {error}") from error
    lengths = {name: len(values) if values.ndim else 0 for name, values in rows.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise StepError(Step.LOAD, f"--samples {path}: inputs need the same number of rows, one or more: {lengths}")
    return rows
