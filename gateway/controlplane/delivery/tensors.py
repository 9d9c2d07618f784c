"""A backend's V2 answer as tensors: JSON and the binary extension, plain, gzip or deflate."""

import math
import struct
import zlib
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.core.compare import Tensor
from gateway.telemetry.records import Answer

MAX_DECODED = 64 << 20
_DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_WINDOW = {"gzip": 31, "deflate": 15}


class _Parameters(msgspec.Struct):
    binary_data_size: int | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: _Parameters | None = None
    data: Any = None


class _Body(msgspec.Struct):
    outputs: list[_Output] = []


_decoder = msgspec.json.Decoder(_Body)


def decode(answer: Answer) -> list[Tensor]:
    """The answer's output tensors. Raises ValueError when it is not a whole, well-formed V2 inference response."""
    body = _inflate(answer.body, answer.encoding)
    at = answer.header_length if answer.header_length >= 0 else len(body)
    try:
        parsed = _decoder.decode(body[:at])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"the answer's JSON makes no sense: {error}") from error
    tensors = []
    for output in parsed.outputs:
        size = output.parameters.binary_data_size if output.parameters else None
        if size is None:
            tensors.append(Tensor(output.name, output.datatype, tuple(output.shape), _from_json(output)))
            continue
        if size < 0 or at + size > len(body):
            raise ValueError(f"output {output.name!r}: {size} bytes of data are not all there")
        values = _from_bytes(output, body[at : at + size])
        tensors.append(Tensor(output.name, output.datatype, tuple(output.shape), values))
        at += size
    return tensors


def _inflate(body: bytes, encoding: str) -> bytes:
    if not encoding or encoding == "identity":
        return body
    if encoding not in _WINDOW:
        raise ValueError(f"content-encoding {encoding!r} is not known")
    inflater = zlib.decompressobj(_WINDOW[encoding])
    try:
        data = inflater.decompress(body, MAX_DECODED)
    except zlib.error as error:
        raise ValueError(f"the {encoding} body is damaged: {error}") from error
    if inflater.unconsumed_tail:
        raise ValueError(f"the body is larger than {MAX_DECODED} bytes")
    return data


def _from_json(output: _Output) -> NDArray[Any]:
    flat = _flatten(output.data)
    if output.datatype == "BYTES":
        values: NDArray[Any] = _objects([str(item).encode() for item in flat])
    else:
        dtype = _DTYPES.get(output.datatype)
        if dtype is None:
            raise ValueError(f"output {output.name!r}: datatype {output.datatype!r} has no JSON form")
        try:
            values = np.array([math.nan if item is None else item for item in flat], dtype=dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"output {output.name!r}: {error}") from error
    return _shaped(output, values)


def _flatten(data: Any) -> list[Any]:
    """Triton takes and gives JSON data flat or nested."""
    if not isinstance(data, list):
        return [data]
    if any(isinstance(item, list) for item in data):
        return [value for item in data for value in _flatten(item)]
    return data


def _from_bytes(output: _Output, data: bytes) -> NDArray[Any]:
    if output.datatype == "BYTES":
        return _shaped(output, _strings(output.name, data))
    if output.datatype == "BF16":  # the upper half of a float32
        if len(data) % 2:
            raise ValueError(f"output {output.name!r}: {len(data)} bytes are no whole number of elements")
        return _shaped(output, (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32))
    dtype = _DTYPES.get(output.datatype)
    if dtype is None:
        raise ValueError(f"output {output.name!r}: unknown datatype {output.datatype!r}")
    if len(data) % np.dtype(dtype).itemsize:
        raise ValueError(f"output {output.name!r}: {len(data)} bytes are no whole number of elements")
    return _shaped(output, np.frombuffer(data, dtype))


def _strings(name: str, data: bytes) -> NDArray[Any]:
    found, at = [], 0
    while at < len(data):
        if at + 4 > len(data):
            raise ValueError(f"output {name!r}: a length is cut off")
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            raise ValueError(f"output {name!r}: an element reaches beyond the data")
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return _objects(found)


def _objects(items: list[bytes]) -> NDArray[Any]:
    values: NDArray[Any] = np.empty(len(items), dtype=object)
    values[:] = items
    return values


def _shaped(output: _Output, values: NDArray[Any]) -> NDArray[Any]:
    if any(size < 0 for size in output.shape):
        raise ValueError(f"output {output.name!r}: shape {output.shape} is negative")
    try:
        return values.reshape(output.shape)
    except ValueError as error:
        raise ValueError(f"output {output.name!r}: {values.size} elements do not fill shape {output.shape}") from error
