"""config.pbtxt as a typed value, with everything written out that Triton would otherwise complete by itself.

The ONNX Runtime backend's auto-complete turns a missing max_batch_size into 4 and adds dynamic batching.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from export.errors import ExportError
from export.request import InstanceKind
from export.serving import proto
from export.state import TensorInfo

_TYPES = {
    "bool": "TYPE_BOOL",
    **{f"{kind}{bits}": f"TYPE_{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
    "object": "TYPE_STRING",
}
_KINDS: dict[InstanceKind, str] = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(_Frozen):
    """An input or output without the batch. `scalar` rows become dims [1] with an empty reshape (no rank 0)."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    scalar: bool = False

    def fields(self) -> dict[str, Any]:
        """The fields of ModelInput and ModelOutput."""
        if self.scalar:
            return {"name": self.name, "data_type": self.data_type, "dims": [1], "reshape": {"shape": []}}
        return {"name": self.name, "data_type": self.data_type, "dims": list(self.dims)}


class DynamicBatching(_Frozen):
    """The scheduler that joins requests. A queue without a bound would answer late instead of refusing."""

    max_queue_delay_us: Annotated[int, Field(ge=0)]
    max_queue_size: Annotated[int, Field(ge=1)]
    queue_timeout_us: Annotated[int, Field(ge=0)]
    preferred_batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()

    def fields(self) -> dict[str, Any]:
        """The fields of ModelDynamicBatching."""
        fields: dict[str, Any] = {
            "max_queue_delay_microseconds": self.max_queue_delay_us,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": self.queue_timeout_us,
                "allow_timeout_override": True,
                "max_queue_size": self.max_queue_size,
            },
        }
        if self.preferred_batch_sizes:
            fields["preferred_batch_size"] = list(self.preferred_batch_sizes)
        return fields


class Warmup(_Frozen):
    """One request that Triton runs before it says ready: floats at random, everything else zero."""

    name: str
    batch_size: int
    shapes: dict[str, tuple[int, ...]]


class ModelConfig(_Frozen):
    """What Sluice writes into config.pbtxt, the version policy apart (that is export.publish.policy's)."""

    name: str
    backend: Literal["onnxruntime", "tensorrt", "python"]
    max_batch_size: Annotated[int, Field(ge=0)]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    instance_kind: InstanceKind = "auto"
    instance_count: Annotated[int, Field(ge=1)] = 1
    dynamic_batching: DynamicBatching | None = None
    warmup: tuple[Warmup, ...] = ()
    parameters: dict[str, str] = Field(default_factory=dict)
    response_cache: bool = False
    optimization: dict[str, Any] = Field(default_factory=dict)
    default_model_filename: str = "model.onnx"
    cc_model_filenames: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _preferred_sizes_fit(self) -> ModelConfig:
        sizes = self.dynamic_batching.preferred_batch_sizes if self.dynamic_batching else ()
        if too_large := [size for size in sizes if size > self.max_batch_size]:
            raise ValueError(f"preferred batch sizes {too_large} are above max_batch_size {self.max_batch_size}")
        return self

    def to_proto(self) -> Any:
        """The message, checked by Triton's protocol."""
        fields: dict[str, Any] = {
            "name": self.name,
            "backend": self.backend,
            "max_batch_size": self.max_batch_size,
            "input": [tensor.fields() for tensor in self.inputs],
            "output": [tensor.fields() for tensor in self.outputs],
            "instance_group": [{"kind": _KINDS[self.instance_kind], "count": self.instance_count}],
            "default_model_filename": self.default_model_filename,
        }
        if self.dynamic_batching:
            fields["dynamic_batching"] = self.dynamic_batching.fields()
        if self.parameters:
            fields["parameters"] = {key: {"string_value": value} for key, value in self.parameters.items()}
        if self.optimization:
            fields["optimization"] = self.optimization
        if self.cc_model_filenames:
            fields["cc_model_filenames"] = self.cc_model_filenames
        if self.response_cache:
            fields["response_cache"] = {"enable": True}
        if self.warmup:
            fields["model_warmup"] = [self._warmup(sample) for sample in self.warmup]
        return proto.from_dict(fields)

    def _warmup(self, sample: Warmup) -> dict[str, Any]:
        inputs = {}
        for tensor in self.inputs:
            floating = tensor.data_type in ("TYPE_FP16", "TYPE_FP32", "TYPE_FP64")
            inputs[tensor.name] = {
                "data_type": tensor.data_type,
                "dims": list(sample.shapes[tensor.name]),
                "random_data" if floating else "zero_data": True,
            }
        return {"name": sample.name, "batch_size": sample.batch_size, "inputs": inputs}


def tensor(info: TensorInfo) -> Tensor:
    """What Triton is told about a graph's input or output."""
    try:
        data_type = _TYPES[info.dtype]
    except KeyError:
        raise ExportError(
            f"{info.name!r} has type {info.dtype}, which Triton's ONNX Runtime backend cannot carry"
        ) from None
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in info.shape[1:])
    return Tensor(name=info.name, data_type=data_type, dims=dims or (1,), scalar=not dims)
