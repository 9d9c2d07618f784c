"""Models with one fault each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.exportable import Axis, Exportable

_ROWS = 3


class _Wrapped(nn.Module):
    """A linear layer and whatever the fault does around it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(5, 4)


class _Healthy(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": self.layer(features)}


class _BakedBatch(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": torch.stack([self.layer(row) for row in features])}


class _LostBatch(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": self.layer(features).sum(0, keepdim=True)}


class _NotANumber(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": torch.log(self.layer(features))}


class _Dropping(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": nn.functional.dropout(self.layer(features), 0.5, training=True)}


class _BatchStatistics(_Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": self.norm(self.layer(features))}


class _Centred(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": self.layer(features) - features.mean()}


class _Counting(_Wrapped):
    calls = 0

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"value": self.layer(features) * self.calls}


class _Approximate(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        hidden = self.layer(features) * 3.0
        how = "tanh" if torch.compiler.is_exporting() else "none"
        return {"value": hidden, "smooth": nn.functional.gelu(hidden, approximate=how)}


class _Huge(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": (self.layer(features) * 1e7 + 1.0) / 1e7}


class _Collision(_Wrapped):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        first = self.layer(features)
        return {"linear": torch.relu(first) + first, "relu": first * 2.0}


class _FixedLength(nn.Module):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"value": features.sum(1, keepdim=True) * (2.0 if features.shape[1] == 5 else 3.0)}


def _make(model: nn.Module, **options: object) -> Exportable:
    torch.manual_seed(2)
    inputs = {"features": torch.randn(_ROWS, 5)}
    return Exportable(module=model.eval().requires_grad_(requires_grad=False), inputs=inputs, **options)  # type: ignore[arg-type]


def healthy() -> Exportable:
    """Nothing wrong."""
    return _make(_Healthy())


def other() -> Exportable:
    """Nothing wrong, other weights."""
    made = _make(_Healthy())
    with torch.no_grad():
        made.module.layer.bias += 1.0  # type: ignore[union-attr, operator]
    return made


def third() -> Exportable:
    """Nothing wrong, other weights again."""
    made = _make(_Healthy())
    with torch.no_grad():
        made.module.layer.bias += 2.0  # type: ignore[union-attr, operator]
    return made


def baked_batch() -> Exportable:
    """Loops over the rows it is traced with."""
    return _make(_BakedBatch())


def lost_batch() -> Exportable:
    """Sums over the batch."""
    return _make(_LostBatch())


def training() -> Exportable:
    """Never called eval()."""
    made = _make(_Healthy())
    made.module.train()
    return made


def not_a_number() -> Exportable:
    """A logarithm of negative numbers."""
    return _make(_NotANumber())


def dropping() -> Exportable:
    """Drops out whatever the mode."""
    return _make(_Dropping())


def batch_statistics() -> Exportable:
    """BatchNorm without running statistics."""
    return _make(_BatchStatistics())


def centred() -> Exportable:
    """Subtracts the mean over the whole batch."""
    return _make(_Centred())


def counting() -> Exportable:
    """Multiplies by the number of calls so far."""
    return _make(_Counting())


def approximate() -> Exportable:
    """Exports an approximation of the second of its two outputs, off by less than a thousandth."""
    return _make(_Approximate())


def huge() -> Exportable:
    """Intermediate values far beyond float16, answers within."""
    return _make(_Huge())


def wrong_names() -> Exportable:
    """Declares an output that does not exist."""
    return _make(_Healthy(), outputs=("score",))


def too_many_names() -> Exportable:
    """Declares two outputs, gives one."""
    return _make(_Healthy(), outputs=("value", "more"))


def collision() -> Exportable:
    """Outputs named like the exporter's own values."""
    return _make(_Collision())


def fixed_length() -> Exportable:
    """Declares a dynamic dimension that its arithmetic fixes."""
    return _make(_FixedLength().eval(), axes={"features": {1: Axis("length", 2, 9)}})


def one_row() -> Exportable:
    """An example batch of one."""
    made = _make(_Healthy())
    return Exportable(module=made.module, inputs={"features": made.inputs["features"][:1]})


def other_contract() -> Exportable:
    """Another output shape."""
    made = _make(nn.Linear(5, 3), outputs=("value",))
    return Exportable(module=made.module, inputs={"features": made.inputs["features"]}, outputs=("value",))


def raising() -> Exportable:
    """A factory that fails."""
    raise RuntimeError("the weights are on another planet")
