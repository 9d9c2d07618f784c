"""Taking out what only the exporter's author needs: source paths, source lines, stack traces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.errors import Step, StepError
from export.graph import files

_CARRIERS = ("doc_string", "metadata_props")


def strip(source: Path, target: Path, max_ir: int) -> dict[str, int]:
    """Write `target` without metadata and documentation; returns the sizes before and after in bytes."""
    import onnx  # noqa: PLC0415
    import onnx_ir  # noqa: PLC0415

    try:
        proto = onnx.load(source, load_external_data=False)  # onnx_ir maps large weights into memory by itself
        # onnx_ir's own pass stops at graphs and nodes: values, tensors and attributes carry the same two fields.
        for carrier, field in list(traces(proto)):
            carrier.ClearField(field)
        model = onnx_ir.from_proto(proto)
        onnx_ir.external_data.set_base_dir(model.graph, source.parent)
    except Exception as error:
        raise StepError(Step.STRIP, f"{source.name} cannot be read back: {error}") from error
    model.ir_version = min(model.ir_version, max_ir)
    files.write(model, target)
    return {"bytes_before": files.size(source), "bytes_after": files.size(target)}


def traces(message: Any) -> Iterator[tuple[Any, str]]:
    """Each part of a protobuf message, at any depth, that has documentation or metadata, and the field it is in."""
    for field in message.DESCRIPTOR.fields:
        if field.name in _CARRIERS:
            if getattr(message, field.name):
                yield message, field.name
        elif field.message_type is not None:
            value = getattr(message, field.name)
            if not hasattr(value, "DESCRIPTOR"):  # a repeated field
                for part in value:
                    yield from traces(part)
            elif message.HasField(field.name):
                yield from traces(value)
