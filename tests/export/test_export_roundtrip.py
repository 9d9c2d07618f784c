"""Every model of the zoo answers through a real Triton as it answers in eager PyTorch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tritonclient.http import InferenceServerClient, InferInput

from export.compose.run import ComposeRequest
from export.compose.run import run as compose
from export.exportable import Exportable
from export.load.torch_model import call, flatten
from export.numeric.compare import compare
from export.numeric.tolerance import MODES
from export.serving.client import Triton
from export.zoo import minilm
from tests.export.conftest import Exporter
from tests.export.zoo_table import LARGE, SMALL, Entry

_TYPES = {"float32": "FP32", "int64": "INT64"}


@functools.cache
def _made(spec: str) -> Exportable:
    module, factory = spec.split(":")
    made: Exportable = getattr(importlib.import_module(module), factory)()
    return made


def _eager_and_served(entry: Entry, address: str, rows: int) -> list[str]:
    made = _made(entry.spec)
    inputs = {name: value.repeat(rows, *[1] * (value.ndim - 1))[:rows] for name, value in made.inputs.items()}
    with torch.inference_mode():
        expected = {name: value.numpy() for name, value in flatten(call(made.module, inputs))}
    with InferenceServerClient(address, network_timeout=120, connection_timeout=120) as client:
        sent = []
        for name, value in inputs.items():
            array = value.numpy()
            sent.append(InferInput(name, list(array.shape), _TYPES[str(array.dtype)]))
            sent[-1].set_data_from_numpy(array)
        answer = client.infer(entry.name, sent)
        problems = []
        for name, reference in expected.items():
            shown = reference.reshape(-1, 1) if reference.ndim == 1 else reference
            outcome = compare(entry.name, answer.as_numpy(name), shown, MODES["fp32"])
            problems += [f"{name}: {outcome.reason}"] if outcome.reason else []
    return problems


@pytest.mark.parametrize("rows", [1, 5])
def test_small_models_agree_with_eager(small_zoo: Path, served: Callable[[Path], Any], rows: int) -> None:
    """MLP, CNN, many inputs and outputs, a rank-1 output, an int64 output, a dynamic second dimension, a step."""
    server = served(small_zoo)
    assert {e.name: _eager_and_served(e, server.http_address, rows) for e in SMALL} == {e.name: [] for e in SMALL}


def test_half_precision_agrees_with_eager_and_is_half_precision(
    small_zoo: Path,
    tmp_path: Path,
    served: Callable[[Path], Any],
    start_triton: Callable[..., Any],
    export_into: Exporter,
) -> None:
    """Served float16 is within its tolerance of eager float32, and as far from served float32 as rounding takes it."""
    entry = Entry("export.zoo.shapes:detector", "detector", 16)
    export_into(tmp_path / "repo", entry.spec, entry.name, max_batch=entry.max_batch, precision="fp16")
    made = _made(entry.spec)
    with torch.inference_mode():
        eager = {name: value.numpy() for name, value in flatten(call(made.module, made.inputs))}
    asked = {name: value.numpy() for name, value in made.inputs.items()}
    with (
        Triton(start_triton(tmp_path / "repo").http_url) as half_server,
        Triton(served(small_zoo).http_url) as full_server,
    ):
        half, full = (server.infer(entry.name, 1, asked) for server in (half_server, full_server))
    assert set(half) == set(full) == set(eager) == {"boxes", "scores"}
    for name, reference in eager.items():
        assert compare(entry.name, half[name], reference, MODES["fp16"]).reason == ""
        assert np.abs(full[name] - reference).max() < 1e-6
        assert np.abs(half[name] - full[name]).max() > 1e-5
    graph = onnx.load(tmp_path / "repo" / "detector" / "1" / "model.onnx").graph
    weights = {weight.data_type for weight in graph.initializer} - {onnx.TensorProto.INT64}
    assert weights == {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
def test_large_models_agree_with_eager(large_zoo: Path, served: Callable[[Path], Any]) -> None:
    """MiniLM with its real weights, ResNet-50 and DistilBERT with random ones."""
    server = served(large_zoo)
    assert {e.name: _eager_and_served(e, server.http_address, 2) for e in LARGE} == {e.name: [] for e in LARGE}


@pytest.mark.slow
def test_text_ensemble_embeds_what_eager_minilm_embeds(large_zoo: Path, start_triton: Callable[..., Any]) -> None:
    """Sentences in, the sentence encoder's own vectors out; publishing it twice adds nothing."""
    request = ComposeRequest(kind="text", name="minilm_text", repo=str(large_zoo), part="minilm", serve_check="off")
    for _ in range(2):
        assert compose(request).versions == {"minilm_text_tokenizer": 1, "minilm_text": 1}
    sentences = ["Gateways split traffic.", "Ein längerer Satz, damit beide Zeilen verschieden lang sind.", ""]
    eager = minilm.encoder()
    tokens = {name: torch.from_numpy(values) for name, values in minilm.tokenise(sentences).items()}
    with torch.inference_mode():
        expected = eager.module(**tokens)["embedding"].numpy()
    server = start_triton(large_zoo, load=("minilm", "minilm_text_tokenizer", "minilm_text"))
    with Triton(server.http_url) as triton:
        asked = np.array([[sentence.encode()] for sentence in sentences], dtype=object)
        answer = triton.infer("minilm_text", None, {"text": asked})["embedding"]
    assert compare("text", answer, expected, MODES["fp32"]).reason == ""


def test_sequences_keep_their_own_state(small_zoo: Path, start_triton: Callable[..., Any]) -> None:
    """Two interleaved sequences through the front with memory answer like two separate loops in eager PyTorch."""
    states = {"state": "next_state"}
    compose(ComposeRequest(kind="sequence", name="memory", repo=str(small_zoo), part="recurrent_step", states=states,
                           serve_check="off"))  # fmt: skip
    step = importlib.import_module("export.zoo.shapes").recurrent_step().module
    server = start_triton(small_zoo, load=("recurrent_step", "memory"))
    states = {7: torch.zeros(1, 8), 8: torch.zeros(1, 8)}
    generator = torch.Generator().manual_seed(1)
    with Triton(server.http_url) as triton:
        for at in range(6):
            key = 7 + at % 2
            value = torch.randn(1, 4, generator=generator)
            with torch.inference_mode():
                expected = step(value, states[key])
            states[key] = expected["next_state"]
            flags = {"sequence_id": key, "sequence_start": at < 2, "sequence_end": at >= 4}
            answer = triton.infer("memory", None, {"value": value.numpy()}, flags)["level"]
            assert compare("step", answer, expected["level"].numpy(), MODES["fp32"]).reason == ""
