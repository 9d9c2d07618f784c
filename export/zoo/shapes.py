"""Small models for each shape of contract that a repository meets. Weights are random with fixed seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from export.exportable import Axis, Exportable

_ROWS = 3


class Mixed(nn.Module):
    """dense FP32 [n, 6], tokens INT64 [n, 4] -> score FP32 [n, 3], gate FP32 [n, 6], nearest INT64 [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 6)
        self.head = nn.Linear(12, 3)

    def forward(self, dense: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Three outputs of two types."""
        embedded = self.table(tokens)
        joined = torch.cat([dense, embedded.mean(1)], dim=1)
        return {
            "score": self.head(joined),
            "gate": torch.sigmoid(dense),
            "nearest": (embedded * dense.unsqueeze(1)).sum(-1).round().to(torch.int64),
        }


class Regressor(nn.Module):
    """features FP32 [n, 5] -> value FP32 [n]: a row is a scalar, which Triton can only show as [n, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """One number for each row."""
        return {"value": self.layer(features).squeeze(-1)}


class Detector(nn.Module):
    """features FP32 [n, anchors, 8] -> boxes FP32 [n, anchors, 4], scores FP32 [n, anchors]; anchors vary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.boxes = nn.Linear(16, 4)
        self.scores = nn.Linear(16, 1)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Boxes and scores for as many anchors as came in."""
        hidden = torch.relu(self.body(features))
        return {"boxes": self.boxes(hidden).sigmoid(), "scores": self.scores(hidden).squeeze(-1).sigmoid()}


class RecurrentStep(nn.Module):
    """value FP32 [n, 4], state FP32 [n, 8] -> level FP32 [n, 2], next_state FP32 [n, 8]: one step of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, value: Tensor, state: Tensor) -> dict[str, Tensor]:
        """The answer to this step, and what the next step must be given."""
        following = self.cell(value, state)
        return {"level": self.head(following), "next_state": following}


def mixed() -> Exportable:
    """Many inputs, many outputs, two types."""
    with _seeded(11):
        model = Mixed()
        inputs = {"dense": torch.randn(_ROWS, 6), "tokens": torch.randint(0, 16, (_ROWS, 4))}
    return _done(model, inputs)


def rank_one() -> Exportable:
    """An output without a second dimension."""
    with _seeded(12):
        return _done(Regressor(), {"features": torch.randn(_ROWS, 5)})


def detector() -> Exportable:
    """A dynamic second dimension in input and outputs."""
    anchors = Axis("anchors", 1, 40)
    with _seeded(13):
        return _done(Detector(), {"features": torch.randn(_ROWS, 7, 8)}, {"features": {1: anchors}})


def recurrent_step() -> Exportable:
    """The step that `sluice export sequence` puts a front with memory before."""
    with _seeded(14):
        return _done(RecurrentStep(), {"value": torch.randn(_ROWS, 4), "state": torch.randn(_ROWS, 8)})


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _done(model: nn.Module, inputs: dict[str, Tensor], axes: dict[str, dict[int, Axis]] | None = None) -> Exportable:
    return Exportable(module=model.eval().requires_grad_(requires_grad=False), inputs=inputs, axes=axes or {})
