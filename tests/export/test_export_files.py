"""What stands in a version's published files: nothing of the machine that made them, and what a GPU is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import export
from export.errors import Step
from export.pipeline import run
from export.request import ExportRequest
from export.serving import proto
from export.state import StepReport
from tests.export.conftest import Exporter

_SEEDED = """
import torch
from torch import nn
from export.exportable import Exportable

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)
    def forward(self, features):
        hidden = self.layer(features)
        return {"value": torch.cond(features.sum() > 0, lambda h: torch.relu(h) * 2.0, lambda h: h - 1.0, (hidden,))}

def branching():
    torch.manual_seed(1)
    model = Branching().eval().requires_grad_(False)
    return Exportable(module=model, inputs={"features": torch.randn(3, 5)}, batch_independent=False)
"""


def test_published_graph_names_no_place_of_the_machine_that_exported_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export_into: Exporter
) -> None:
    """The exporter writes paths and lines of source into nodes and branches: the published bytes hold none of them.

    Nor those of a finished file with one in every place where ONNX has room for it, which becomes the same bytes.
    """
    factory = tmp_path / "sluice_seeded_branching.py"
    factory.write_text(_SEEDED)
    monkeypatch.syspath_prepend(tmp_path)
    places = [str(factory).encode(), str(Path(export.__file__).parent).encode(), b"self.layer(features)"]
    raw = b""

    def as_exported(step: Step, report: StepReport | None) -> None:
        nonlocal raw
        if step is Step.STRIP and report is None:
            (path,) = (tmp_path / "work").glob("*/raw.onnx")
            raw = path.read_bytes()

    repo = tmp_path / "repo"
    run(ExportRequest(spec=f"{factory.stem}:branching", repo=str(repo), name="traced", max_batch=4, serve_check="off",
                      work=tmp_path / "work"), as_exported)  # fmt: skip
    assert [place for place in places if place not in raw] == []
    published = (repo / "traced" / "1" / "model.onnx").read_bytes()
    assert [place for place in (*places, str(tmp_path).encode(), b".py") if place in published] == []

    model, planted = onnx.load_from_string(published), str(tmp_path / "planted.py")
    assert _plant(model, planted) > 40
    onnx.save(model, tmp_path / "planted.onnx")
    export_into(repo, str(tmp_path / "planted.onnx"), "finished", max_batch=4)
    again = (repo / "finished" / "1" / "model.onnx").read_bytes()
    assert again.count(planted.encode()) == 0
    assert again == published


def _plant(message: Any, text: str) -> int:
    """Write documentation and metadata into every part of a model that has the fields; returns into how many."""
    count = 0
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                count += _plant(part, text)
    for name in {"doc_string", "metadata_props"} & set(message.DESCRIPTOR.fields_by_name):
        if name == "doc_string":
            message.doc_string = text
        else:
            message.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=text)
        count += 1
    return count


def _graph(path: Path, operator: str) -> Path:
    """One operator over pictures FP32 [n, 1, 4, 4]."""
    pictures, answer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 4, 4]) for name in ("pictures", "answer")
    )
    kernel = helper.make_tensor("kernel", TensorProto.FLOAT, [1, 1, 1, 1], [0.5])
    node = helper.make_node(operator, ["pictures", "kernel"], ["answer"])
    graph = helper.make_graph([node], "one", [pictures], [answer], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("operator", "options", "told"),
    [
        ("Conv", {"instances": "gpu"}, {"cudnn_conv_algo_search": "1"}),
        ("Conv", {"instances": "auto"}, {"cudnn_conv_algo_search": "1"}),
        ("Conv", {"tensorrt": "accelerator"}, {"cudnn_conv_algo_search": "1"}),
        ("Conv", {"instances": "cpu"}, {}),
        ("Mul", {"instances": "gpu"}, {}),
    ],
)
def test_convolutions_on_a_gpu_choose_their_algorithm_by_heuristic(
    tmp_path: Path, export_into: Exporter, operator: str, options: dict[str, str], told: dict[str, str]
) -> None:
    """As a parameter of the model, never inside an accelerator, where Triton's backend overwrites it."""
    export_into(tmp_path / "repo", str(_graph(tmp_path / "one.onnx", operator)), "one", max_batch=2, **options)
    config = proto.from_text((tmp_path / "repo" / "one" / "config.pbtxt").read_text(), "config.pbtxt")
    assert {key: value.string_value for key, value in config.parameters.items()} == told
    assert "cudnn" not in str(config.optimization)
