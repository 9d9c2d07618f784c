"""A memory in front of a published step model: Triton's sequence batcher brings each sequence to the state it left."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

import numpy as np

from export.compose.composition import Array, Check, Composition, Piece, published
from export.errors import UsageError
from export.numeric.tolerance import MODES
from export.publish.repository import Repository

_IDLE_US = 5_000_000
_STEPS = 4


def compose(
    repository: Repository, name: str, step: str, version: int | None, states: dict[str, str], idle_us: int = _IDLE_US
) -> Composition:
    """`name` hides `states` (input of the step -> output that is its next value) from clients."""
    record, graph, config = published(repository, step, version)
    inputs = {tensor.name: tensor for tensor in config.input}
    outputs = {tensor.name: tensor for tensor in config.output}
    kept = []
    for source, target in states.items():
        if source not in inputs or target not in outputs:
            raise UsageError(f"state {source}={target}: {step} has inputs {list(inputs)} and outputs {list(outputs)}")
        if list(inputs[source].dims) != list(outputs[target].dims) or -1 in inputs[source].dims:
            raise UsageError(f"state {source}={target}: both must have one fixed shape")
        dtype = next(t.dtype for t in record.inputs if t.name == source)
        kept.append({"input": source, "output": target, "dims": list(inputs[source].dims), "dtype": dtype})
    program = importlib.resources.files("export.compose.programs").joinpath("sequence.py").read_bytes()
    piece = Piece(
        name,
        {
            "name": name,
            "backend": "python",
            "max_batch_size": 1,
            "input": [_tensor(t) for n, t in inputs.items() if n not in states],
            "output": [_tensor(t) for n, t in outputs.items() if n not in states.values()],
            "instance_group": [{"kind": "KIND_CPU", "count": 1}],
            "sequence_batching": {
                "max_sequence_idle_microseconds": idle_us,
                "oldest": {"max_candidate_sequences": 1024},
                "control_input": [
                    _flag("START", "CONTROL_SEQUENCE_START"),
                    _flag("END", "CONTROL_SEQUENCE_END"),
                    {
                        "name": "CORRID",
                        "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_UINT64"}],
                    },
                ],
            },
            "parameters": {
                "step_model": {"string_value": step},
                "step_version": {"string_value": str(record.version)},
                "states": {"string_value": json.dumps(kept)},
            },
        },
        {"model.py": program},
    )
    checks = _checks(graph, [t for t in record.inputs if t.name not in states], kept)
    return Composition(f"sequence:{step}/{record.version}", (piece,), ((step, record.version),), checks, MODES["fp32"])


def _checks(graph: bytes, infos: list[Any], kept: list[dict[str, Any]]) -> tuple[Check, ...]:
    """Two sequences in turns: a state that leaked from one to the other, or was lost, answers differently."""
    import onnxruntime as ort  # noqa: PLC0415

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    hidden = {state["output"] for state in kept}
    generator = np.random.default_rng(5)
    memory: dict[int, dict[str, Array]] = {}
    checks = []
    for number in range(2 * _STEPS):
        sequence, at = 101 + number % 2, number // 2
        if at == 0:
            memory[sequence] = {s["input"]: np.zeros([1, *s["dims"]], s["dtype"]) for s in kept}
        given = {t.name: generator.normal(size=[1, *t.shape[1:]]).astype(t.dtype) for t in infos}
        answer = dict(zip(names, session.run(names, {**given, **memory[sequence]}), strict=True))
        memory[sequence] = {s["input"]: answer[s["output"]] for s in kept}
        flags = {"sequence_id": sequence, "sequence_start": at == 0, "sequence_end": at == _STEPS - 1}
        checks.append(Check(given, {n: v for n, v in answer.items() if n not in hidden}, flags))
    return tuple(checks)


def _flag(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "control": [{"kind": kind, "int32_false_true": [0, 1]}]}


def _tensor(tensor: Any) -> dict[str, Any]:
    kinds = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    return {"name": tensor.name, "data_type": kinds[tensor.data_type].name, "dims": list(tensor.dims)}
