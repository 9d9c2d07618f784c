"""SPEC directory: a model as transformers saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import Step, StepError
from export.exportable import Axis, Exportable

_EXAMPLE_ROWS = 3
_EXAMPLE_TOKENS = 12
_MOST_TOKENS = 256


class TensorsOnly(nn.Module):
    """The model's outputs that are tensors; caches and tuples of layers cannot be served."""

    def __init__(self, inner: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.inner = inner
        self.names = names
        self.train(mode=False)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Outputs by the names that transformers gives them."""
        result = self.inner(**dict(zip(self.names, inputs, strict=True)))
        return {name: value for name, value in result.items() if isinstance(value, Tensor)}


def load(path: Path, *, trust: bool) -> Exportable:
    """The architecture that config.json names, in fp32. Code of its own and pickled weights need `trust`."""
    import transformers  # noqa: PLC0415
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    described = json.loads((path / "config.json").read_text())
    if described.get("auto_map") and not trust:
        raise StepError(
            Step.LOAD, f"{path}: config.json wants to run code of its own (auto_map); pass --trust if you trust it"
        )
    if not list(path.glob("*.safetensors")) and not trust:
        raise StepError(Step.LOAD, f"{path}: there is no .safetensors file, and unpickling weights needs --trust")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    name = (described.get("architectures") or ["AutoModel"])[0]
    architecture: Any = getattr(transformers, name, transformers.AutoModel)
    try:
        model = architecture.from_pretrained(path, local_files_only=True, dtype=torch.float32, trust_remote_code=trust)
    except Exception as error:
        raise StepError(
            Step.LOAD, f"{path}: transformers cannot load it: {str(error).splitlines()[0][:300]}"
        ) from error
    inputs, axes = _examples(model, path)
    return Exportable(
        module=TensorsOnly(model.eval().requires_grad_(requires_grad=False), tuple(inputs)).eval(),
        inputs=inputs,
        axes=axes,
        labels={"architecture": type(model).__name__},
        seeds={"examples": 0},
    )


def _examples(model: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, dict[int, Axis]]]:
    generator = torch.Generator().manual_seed(0)
    config = model.config
    if model.main_input_name == "input_ids":
        most = min(getattr(config, "max_position_embeddings", _MOST_TOKENS), _MOST_TOKENS)
        axis = Axis("tokens", 2, most)
        ids = torch.randint(0, config.vocab_size, (_EXAMPLE_ROWS, _EXAMPLE_TOKENS), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, _EXAMPLE_TOKENS // 2 :] = 0
        return {"input_ids": ids, "attention_mask": mask}, {"input_ids": {1: axis}, "attention_mask": {1: axis}}
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(config, "num_channels", 3)
        return {"pixel_values": torch.randn(_EXAMPLE_ROWS, channels, height, width, generator=generator)}, {}
    raise StepError(
        Step.LOAD, f"{path}: its input is {model.main_input_name!r}; write a factory that gives example inputs for it"
    )
