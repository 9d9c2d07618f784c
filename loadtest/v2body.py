"""Inference request bodies, byte for byte those of `tritonclient.http` (a test holds the two equal).

They are built once before the run and cut where the sequence parameters go, so that sending costs no serialisation.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]

DATATYPES: Final[Mapping[str, str]] = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class Body(msgspec.Struct, frozen=True, array_like=True):
    """One request: the JSON header up to its sequence parameters, the rest of it, and the raw tensors.

    `items` is the batch size; `binary` says whether raw tensors follow, which the protocol wants announced.
    """

    head: bytes
    tail: bytes
    raw: bytes
    items: int
    binary: bool

    def render(self, sequence: bytes = b"") -> tuple[bytes, int | None]:
        """The bytes to send and the value of `Inference-Header-Content-Length`, None for a JSON body."""
        header = self.head + sequence + self.tail
        return header + self.raw, len(header) if self.binary else None


def build(tensors: Tensors, *, binary: bool) -> Body:
    """Serialise one request.

    Args:
        tensors: input name to array; the first axis is the batch.
        binary: raw little-endian tensors after the JSON header instead of numbers inside it.

    Raises:
        ValueError: a dtype has no V2 datatype, or FP16 is asked for in JSON, which Triton refuses.
    """
    inputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, array in tensors.items():
        datatype = DATATYPES.get(array.dtype.name)
        if datatype is None:
            raise ValueError(f"input {name}: dtype {array.dtype} has no V2 datatype")
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if binary:
            data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        elif datatype == "FP16":
            raise ValueError(f"input {name}: FP16 travels only as binary data")
        else:
            entry["data"] = array.ravel().tolist()
        inputs.append(entry)
    # tritonclient asks for binary outputs when no outputs are named; sequence parameters come before that key.
    text = json.dumps({"inputs": inputs}, separators=(",", ":"))
    head = text[:-1] + ',"parameters":{'
    return Body(
        head=head.encode(),
        tail=b'"binary_data_output":true}}',
        raw=b"".join(raw),
        items=next(iter(tensors.values())).shape[0],
        binary=binary,
    )


def sequence_parameters(sequence_id: int | str, *, start: bool, end: bool) -> bytes:
    """The sequence parameters as they stand inside a request's `parameters`, for `Body.render`."""
    flags = {"sequence_id": sequence_id, "sequence_start": start, "sequence_end": end}
    return json.dumps(flags, separators=(",", ":")).encode()[1:-1] + b","
