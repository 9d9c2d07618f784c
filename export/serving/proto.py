"""Triton's own model_config.proto, as the tritonclient package ships it."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from typing import Any

from export.errors import ExportError

_MODULE = "export._triton_model_config_pb2"


@functools.cache
def module() -> Any:
    """The generated module. Loaded by file: tritonclient.grpc would import grpcio, which nothing here uses."""
    try:
        path = importlib.metadata.distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    except importlib.metadata.PackageNotFoundError:
        raise ExportError(
            "config.pbtxt is checked against tritonclient's protocol, which is not installed: pip install tritonclient"
        ) from None
    spec = importlib.util.spec_from_file_location(_MODULE, str(path))
    if spec is None or spec.loader is None:
        raise ExportError(f"tritonclient has no readable {path}")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def _protobuf(name: str) -> Any:
    return importlib.import_module(f"google.protobuf.{name}")


def from_dict(config: dict[str, Any]) -> Any:
    """A ModelConfig message; ExportError names an unknown field or a wrong type."""
    try:
        return _protobuf("json_format").ParseDict(config, module().ModelConfig())
    except _protobuf("json_format").ParseError as error:
        raise ExportError(f"not a Triton model configuration: {error}") from None


def from_text(text: str, where: str) -> Any:
    """A ModelConfig message from config.pbtxt's text; ExportError names the line."""
    try:
        return _protobuf("text_format").Parse(text, module().ModelConfig())
    except _protobuf("text_format").ParseError as error:
        raise ExportError(f"{where}: {error}") from None


def merge_text(message: Any, text: str, where: str) -> None:
    """Set in `message` what the text says. Only the text tells a zero that was meant from a field left out."""
    try:
        _protobuf("text_format").Merge(text, message)
    except _protobuf("text_format").ParseError as error:
        raise ExportError(f"{where}: {error}") from None


def to_text(message: Any) -> str:
    """config.pbtxt, fields in the protocol's own order."""
    text: str = _protobuf("text_format").MessageToString(message, as_utf8=True)
    return text


def to_dict(message: Any) -> dict[str, Any]:
    """The message with the protocol's field names."""
    result: dict[str, Any] = _protobuf("json_format").MessageToDict(message, preserving_proto_field_name=True)
    return result
