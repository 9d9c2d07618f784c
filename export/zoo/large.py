"""Models large enough to keep a GPU busy, from transformers' own definitions with random weights: nothing to download.

Their answers mean nothing; their arithmetic is that of the real thing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.exportable import Axis, Exportable
from export.load.huggingface import TensorsOnly

_ROWS = 2
_SEED = 21


def resnet50() -> Exportable:
    """pixel_values FP32 [n, 3, 224, 224] -> logits FP32 [n, 1000]."""
    from transformers import ResNetConfig, ResNetForImageClassification  # noqa: PLC0415

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = ResNetForImageClassification(ResNetConfig.from_dict({"num_labels": 1000}))
        inputs = {"pixel_values": torch.randn(_ROWS, 3, 224, 224)}
    return _random(model, inputs, {})


def distilbert() -> Exportable:
    """input_ids, attention_mask INT64 [n, tokens] -> last_hidden_state FP32 [n, tokens, 768]."""
    from transformers import DistilBertConfig, DistilBertModel  # noqa: PLC0415

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = DistilBertModel(DistilBertConfig())
        ids = torch.randint(0, 30_000, (_ROWS, 16))
    tokens = Axis("tokens", 2, 128)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return _random(model, inputs, {"input_ids": {1: tokens}, "attention_mask": {1: tokens}})


def _random(model: nn.Module, inputs: dict[str, Tensor], axes: dict[str, dict[int, Axis]]) -> Exportable:
    model.requires_grad_(requires_grad=False)
    return Exportable(
        module=TensorsOnly(model, tuple(inputs)).train(mode=False),
        inputs=inputs,
        axes=axes,
        seeds={"weights": _SEED},
        labels={"weights": "random"},
    )
