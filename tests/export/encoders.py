"""Encoders small enough for many tests, for the text front's tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.exportable import Axis, Exportable

_VOCABULARY = 30522  # MiniLM's, whose tokenizer stands before them


class _Mean(nn.Module):
    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(_VOCABULARY, 8)
        self.masked = masked

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        weights = attention_mask if self.masked else torch.ones_like(attention_mask) + 0 * attention_mask
        weighted = self.table(input_ids) * weights.unsqueeze(-1)
        return {"embedding": weighted.sum(1) / weights.sum(1, keepdim=True).clamp(min=1)}


def _make(model: nn.Module) -> Exportable:
    generator = torch.Generator().manual_seed(4)
    tokens = {1: Axis("tokens", 2, 64)}
    inputs = {
        "input_ids": torch.randint(0, _VOCABULARY, (3, 9), generator=generator),
        "attention_mask": torch.ones(3, 9, dtype=torch.int64),
    }
    return Exportable(module=model.eval().requires_grad_(requires_grad=False), inputs=inputs,
                      axes=dict.fromkeys(inputs, tokens))  # fmt: skip


def masked() -> Exportable:
    """The mean over the tokens that the mask leaves."""
    return _make(_Mean(masked=True))


def leaking() -> Exportable:
    """The mean over all tokens: how far a text was padded shows in its answer."""
    return _make(_Mean(masked=False))
