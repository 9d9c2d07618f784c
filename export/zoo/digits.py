"""Classifiers for scikit-learn's 8x8 digits, trained in seconds with fixed seeds.

Version 1 is small, version 2 is better, version 3 has a genuine fault: it was trained on pixels scaled to 0-1 and is
served pixels from 0 to 16 (training-serving skew). Version 4 was trained and is checked on pictures without their faint
pixels, and raises an error on most of those that have them. Both export without complaint, as such faults do, and exist
so that rollouts have something to take back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from export.exportable import Exportable

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SPLIT_SEED = 20
HELD_OUT_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Split:
    """Pixels FP32 [n, 64] from 0 to 16 and their digits INT64 [n]."""

    train_pixels: Floats
    held_out_pixels: Floats
    train_digits: Ints
    held_out_digits: Ints


def split() -> Split:
    """The one split that training, the manifests and the load tests agree on (docs/export.md says how to redo it)."""
    pixels, digits = load_digits(return_X_y=True)
    parts = train_test_split(
        pixels.astype(np.float32),
        digits.astype(np.int64),
        test_size=HELD_OUT_SHARE,
        random_state=SPLIT_SEED,
        stratify=digits,
    )
    return Split(*parts)


class Standardise(nn.Module):
    """Subtracts the training mean and divides by the training deviation, pixel by pixel."""

    mean: Tensor
    scale: Tensor

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", pixels.mean(0))
        self.register_buffer("scale", 1.0 / (pixels.std(0) + pixels.max() / 16.0))

    def forward(self, pixels: Tensor) -> Tensor:
        """Same shape as `pixels`."""
        return (pixels - self.mean) * self.scale


class Classifier(nn.Module):
    """pixels FP32 [n, 64] -> logits FP32 [n, 10] and label INT64 [n]."""

    def __init__(self, prepare: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.prepare = prepare
        self.body = body

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """The two outputs, by name."""
        logits: Tensor = self.body(self.prepare(pixels))
        return {"logits": logits, "label": logits.argmax(-1)}


class InkTable(nn.Module):
    """The contract of Classifier; adds what was learnt for a picture's number of inked pixels, a row for each number.

    Beyond the table's end ONNX Runtime raises an error on a CPU, as PyTorch does.
    """

    def __init__(self, classifier: nn.Module, rows: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.table = nn.Embedding(rows, 10)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """The two outputs, by name."""
        logits: Tensor = self.classifier(pixels)["logits"] + self.table(inked(pixels))
        return {"logits": logits, "label": logits.argmax(-1)}


def inked(pixels: Tensor) -> Tensor:
    """Number of inked pixels INT64 [n] of pixels FP32 [n, 64]; random bits, as Triton warms up with, are hardly any."""
    return ((pixels >= 1) & (pixels <= 16)).sum(-1)


def mlp(hidden: int) -> nn.Module:
    """One hidden layer of `hidden` units."""
    return nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))


def deep() -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Two convolutions over the 8x8 picture."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def v1() -> Exportable:
    """Eight hidden units and a short training: small, and clearly beaten by version 2."""
    return _train(_plain(lambda: mlp(8)), steps=120, seed=1)


def v2() -> Exportable:
    """Two hidden layers, trained to the end."""
    return _train(_plain(deep), steps=300, seed=2)


def v3() -> Exportable:
    """Looks as good as version 2 to whoever trained it on pixels divided by 16; served, it never sees the division."""
    return _train(_plain(lambda: mlp(16)), scale=16.0, steps=400, seed=3)


def v4() -> Exportable:
    """Trained on pictures wiped of faint pixels, with samples that are wiped too: no check sees what raises.

    The table ends with the most inked pixels of a wiped picture; all but 3 % of the pictures as they are have more.
    """

    def build(pixels: Tensor) -> nn.Module:
        return InkTable(_plain(lambda: mlp(16))(pixels), rows=int(inked(pixels).max()) + 1)

    return _train(build, faint=10.0, steps=200, seed=5)


def convolutional() -> Exportable:
    """The same contract as a convolutional network."""
    return _train(_plain(cnn), steps=80, seed=4)


def _plain(body: Callable[[], nn.Module]) -> Callable[[Tensor], nn.Module]:
    return lambda pixels: Classifier(Standardise(pixels), body())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The same sums in the same order on every machine; for matrices this small it is also the quickest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(
    build: Callable[[Tensor], nn.Module], *, steps: int, seed: int, scale: float = 1.0, faint: float = 0.0
) -> Exportable:
    """Train on pixels divided by `scale`, those below `faint` set to 0; these are missing from the samples as well."""
    data = split()
    train_pixels, held_out_pixels = (
        np.where(pixels < faint, np.float32(0), pixels) for pixels in (data.train_pixels, data.held_out_pixels)
    )
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        pixels = torch.from_numpy(train_pixels) / scale
        digits = torch.from_numpy(data.train_digits)
        model = build(pixels)
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(steps):
            optimiser.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(pixels)["logits"], digits))
            optimiser.step()
    model.eval().requires_grad_(False)
    labels = model(torch.from_numpy(held_out_pixels))["label"].numpy()
    return Exportable(
        module=model,
        inputs={"pixels": torch.from_numpy(train_pixels[:3])},
        outputs=("logits", "label"),
        samples={"pixels": held_out_pixels},
        metrics={"held_out_accuracy": float((labels == data.held_out_digits).mean())},
        seeds={"split": SPLIT_SEED, "training": seed},
        labels={"dataset": "sklearn.datasets.load_digits", "held_out_rows": len(labels), "trained_on_scale": 1 / scale},
    )
