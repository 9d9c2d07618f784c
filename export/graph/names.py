"""Names of inputs and outputs: the model's own, with collisions mended.

The dynamo exporter names values after torch operators; an output called `embedding` may meet an internal value of that
name, and ONNX Runtime refuses the file ("Duplicate definition of name").
"""

from __future__ import annotations

from typing import Any

from export.errors import Step, StepError


def rename(model: Any, inputs: list[str], outputs: list[str]) -> list[str]:
    """Give the graph its public names in place; returns the internal names that had to make way."""
    import onnx_ir  # noqa: PLC0415

    graph = model.graph
    for kind, values, wanted in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
        if len(values) != len(wanted):
            raise StepError(
                Step.EXPORT, f"the graph has {len(values)} {kind}, the model {len(wanted)} ({', '.join(wanted)})"
            )
    duplicates = sorted({name for name in [*inputs, *outputs] if [*inputs, *outputs].count(name) > 1})
    if duplicates:
        raise StepError(Step.EXPORT, f"a name is used twice among inputs and outputs: {', '.join(duplicates)}")
    _separate_outputs(graph, onnx_ir)
    moved = _move_away(graph, {*inputs, *outputs})
    for value, name in zip([*graph.inputs, *graph.outputs], [*inputs, *outputs], strict=True):
        value.name = name
    return moved


def _separate_outputs(graph: Any, onnx_ir: Any) -> None:
    """An output that is an input, an initializer, or another output gets a node of its own."""
    seen: set[int] = {id(value) for value in graph.inputs} | {id(value) for value in graph.initializers.values()}
    for position, value in enumerate(list(graph.outputs)):
        if id(value) in seen:
            node = onnx_ir.node("Identity", inputs=[value])
            node.outputs[0].shape = value.shape
            node.outputs[0].type = value.type
            graph.append(node)
            graph.outputs[position] = node.outputs[0]
        seen.add(id(graph.outputs[position]))


def _move_away(graph: Any, taken: set[str]) -> list[str]:
    public = {id(value) for value in [*graph.inputs, *graph.outputs]}
    values = [*graph.initializers.values(), *(output for node in graph.all_nodes() for output in node.outputs)]
    used = {value.name for value in values} | taken
    moved = []
    for value in values:
        if id(value) in public or value.name not in taken:
            continue
        moved.append(value.name)
        suffix = 1
        while f"{value.name}.{suffix}" in used:
            suffix += 1
        value.name = f"{value.name}.{suffix}"
        used.add(value.name)
    return moved
