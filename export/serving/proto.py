"""Triton's own model_config.proto, as the tritonclient package ships it."""

from __future__ import annotations

import importlib
from typing import Any

from export.errors import ExportError


def module() -> Any:
    """The generated module; it comes in late because its package is large."""
    return importlib.import_module("tritonclient.grpc.model_config_pb2")


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
