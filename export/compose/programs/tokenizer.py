"""Triton Python model: text BYTES [n, 1] -> input_ids, attention_mask INT64 [n, tokens].

It runs inside Triton and imports nothing of Sluice; Triton's Python needs the packages numpy and tokenizers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from tokenizers import Tokenizer


class TritonPythonModel:
    """One instance; the tokenizer's own file lies beside this one."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read tokenizer.json and the limits that the configuration carries."""
        parameters = json.loads(args["model_config"])["parameters"]
        directory = Path(args["model_repository"]) / args["model_version"]
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.enable_truncation(int(parameters["max_tokens"]["string_value"]))
        # Lengths in steps of a multiple let Triton's batcher join requests whose texts differ a little in length.
        self.tokenizer.enable_padding(pad_to_multiple_of=int(parameters["pad_to_multiple_of"]["string_value"]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Each request is padded to the longest of its own texts."""
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> Any:
        values = pb.get_input_tensor_by_name(request, "text").as_numpy()
        try:
            texts = [item.decode("utf-8") for item in values.reshape(-1)]
        except UnicodeDecodeError as error:
            return pb.InferenceResponse(error=pb.TritonError(f"text is not UTF-8: {error}"))
        encoded = self.tokenizer.encode_batch(texts)
        ids = np.array([item.ids for item in encoded], dtype=np.int64)
        mask = np.array([item.attention_mask for item in encoded], dtype=np.int64)
        return pb.InferenceResponse([pb.Tensor("input_ids", ids), pb.Tensor("attention_mask", mask)])
