"""What a caller asks of the pipeline: frozen, validated, serialisable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from export.serving.address import parse
from export.targets import DEFAULT_TARGET

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
TENSORRT = re.compile(r"\d+(\.\d+){2,3}")
Precision = Literal["fp32", "fp16"]
TensorRT = Literal["off", "plan", "accelerator"]
InstanceKind = Literal["auto", "cpu", "gpu"]


def _named(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("a model's name is 1 to 128 letters, digits, '_', '-' or '.', starting with a letter or digit")
    return value


ModelName = Annotated[str, AfterValidator(_named)]


class ExportRequest(BaseModel):
    """One run of the pipeline.

    `repo` is a directory or an fsspec URL (`s3://bucket/prefix`). `max_batch` bounds the batch that parity is held to
    and that Triton may form. `tensorrt` builds a plan here, or lets the ONNX Runtime backend build engines when it
    loads the model (`accelerator`); a plan needs `target_tensorrt`, the exact version that the target has, as
    TRT_VERSION in its container tells it. `opset` None means 18, which every release in the table loads.
    `serve_check` and `triton` are each a Triton's base URL, with `,grpc_port=N` to load over gRPC; serve_check also
    takes `local` (start one), `auto` (local if it can be had) and `off`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    repo: str
    name: ModelName
    precision: Precision = "fp32"
    tensorrt: TensorRT = "off"
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    target_triton: str = DEFAULT_TARGET
    target_tensorrt: str | None = None
    opset: Annotated[int, Field(ge=13)] | None = None
    promote: bool = False
    trust: bool = False
    version: Annotated[int, Field(ge=1)] | None = None
    samples: Path | None = None
    overlay: Path | None = None
    tolerances: tuple[str, ...] = ()
    instances: InstanceKind = "auto"
    instance_count: Annotated[int, Field(ge=1, le=64)] = 1
    queue_delay_us: Annotated[int, Field(ge=0)] = 500
    queue_size: Annotated[int, Field(ge=1)] = 1024
    queue_timeout_us: Annotated[int, Field(ge=0)] = 1_000_000
    preferred_batch_sizes: tuple[int, ...] = ()
    response_cache: bool = False
    reconfigure: bool = False
    serve_check: str = "auto"
    triton: str | None = None
    work: Path | None = None
    fresh: bool = False
    dry_run: bool = False
    lock_timeout_s: Annotated[float, Field(ge=0)] = 30.0

    @field_validator("target_tensorrt")
    @classmethod
    def _exact(cls, value: str | None) -> str | None:
        if value is None:
            return None
        plain = value.partition("+")[0]  # NVIDIA's containers add the CUDA that it was built for
        if not TENSORRT.fullmatch(plain):
            raise ValueError("a TensorRT version is three or four numbers, such as 10.9.0.34")
        return plain

    @model_validator(mode="after")
    def _addresses(self) -> Self:
        for text in (self.triton, None if self.serve_check in {"auto", "local", "off"} else self.serve_check):
            if text is not None:
                parse(text)
        return self

    @property
    def effective_opset(self) -> int:
        """The opset that the graph is written in."""
        return self.opset or 18
