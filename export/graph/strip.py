"""Taking out what only the exporter's author needs: source paths, source lines, stack traces."""

from __future__ import annotations

from pathlib import Path

from export.errors import Step, StepError
from export.graph import files


def strip(source: Path, target: Path, max_ir: int) -> dict[str, int]:
    """Write `target` without metadata and documentation; returns the sizes before and after in bytes."""
    import onnx_ir  # noqa: PLC0415
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass  # noqa: PLC0415

    try:
        model = onnx_ir.load(source)
    except Exception as error:
        raise StepError(Step.STRIP, f"{source.name} cannot be read back: {error}") from error
    ClearMetadataAndDocStringPass()(model)
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.ir_version = min(model.ir_version, max_ir)
    files.write(model, target)
    return {"bytes_before": files.size(source), "bytes_after": files.size(target)}
