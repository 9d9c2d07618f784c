"""Real handwritten digits: scikit-learn's copy of the UCI test set, 1,797 images of 8 x 8 pixels."""

import numpy as np

from loadtest.v2body import Tensors


def batches(*, batch: int, count: int, seed: int) -> list[Tensors]:
    """`count` requests of `batch` digits each: `pixels` FP32 [batch, 64] values 0 to 16."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (a second of imports that other commands can skip)

    images = np.asarray(load_digits().data, dtype=np.float32)
    rng = np.random.default_rng(seed)
    return [{"pixels": images[rng.integers(0, len(images), batch)]} for _ in range(count)]
