"""Real digits to ask with: the rows of scikit-learn's digits data that no version was trained on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Pixels = np.ndarray[Any, np.dtype[np.float32]]
Labels = np.ndarray[Any, np.dtype[np.int64]]

MODEL = "digits"
INPUT = "pixels"
LABEL = "label"
LOGITS = "logits"


@dataclass(frozen=True, slots=True)
class Digits:
    """Held-out rows: `pixels` FP32 [n, 64] from 0 to 16, `labels` INT64 [n]."""

    pixels: Pixels
    labels: Labels


def held_out() -> Digits:
    """The 540 rows by which the manifests' `metrics.held_out_accuracy` was measured (see docs/export.md)."""
    pixels, labels = load_digits(return_X_y=True)
    _, held_pixels, _, held_labels = train_test_split(
        pixels.astype("float32"), labels, test_size=0.3, random_state=20, stratify=labels
    )
    return Digits(held_pixels, held_labels.astype("int64"))
