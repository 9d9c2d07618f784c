"""Inference bodies that are wrong in themselves: the gateway passes them on, and Triton says what is wrong."""

import gzip
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Body:
    """One body with its own field lines, the status of the answer, and the route that is asked."""

    status: int
    data: bytes
    fields: tuple[bytes, ...] = ()
    route: str = "m"


def _json(**changes: Any) -> bytes:
    """A good request of the zoo's add_sub with some of it changed."""
    inputs = [{"name": f"INPUT{i}", "shape": [1, 16], "datatype": "FP32", "data": [1.0] * 16} for i in (0, 1)]
    inputs[0] |= changes.pop("input0", {})
    return msgspec.json.encode({"inputs": inputs, **changes})


def _binary(first: int, second: int, header: int = 0, status: int = 400) -> Body:
    sizes = (first, second)
    inputs = [
        {"name": f"INPUT{i}", "shape": [1, 16], "datatype": "FP32", "parameters": {"binary_data_size": sizes[i]}}
        for i in (0, 1)
    ]
    head = msgspec.json.encode({"inputs": inputs})
    length = b"Inference-Header-Content-Length: %d" % (header or len(head))
    return Body(status, head + bytes(128), (length,))


def _text(elements: bytes, status: int = 400) -> Body:
    """One BYTES element for the zoo's bytes_identity, as it lies in the body."""
    size = {"binary_data_size": len(elements)}
    head = msgspec.json.encode({"inputs": [{"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "parameters": size}]})
    return Body(status, head + elements, (b"Inference-Header-Content-Length: %d" % len(head),), "text")


BODIES = {
    "a good one": Body(200, _json()),
    "no JSON": Body(500, b"nonsense"),
    "JSON that is no object": Body(500, b"[1, 2]"),
    "JSON 101 deep": Body(400, b'{"inputs":' + b"[" * 101 + b"]" * 101 + b"}"),
    "JSON 100,000 deep": Body(400, b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "bytes that are no UTF-8": Body(400, b'{"inputs":[{"name":"\xff\xfe"}]}'),
    "a shape whose product overflows": Body(400, _json(input0={"shape": [1 << 32, 1 << 32]})),
    "a negative shape": Body(500, _json(input0={"shape": [2, -5]})),
    "a million outputs": Body(400, _json(outputs=[{"name": f"O{i}"} for i in range(1_000_000)])),
    "an output called `../../etc/passwd`": Body(400, _json(outputs=[{"name": "../../etc/passwd"}])),
    "an output's name with NUL": Body(400, _json(outputs=[{"name": "OUT\0PUT0"}])),
    "an output's name of 300 bytes": Body(400, _json(outputs=[{"name": "x" * 300}])),
    "an input twice": Body(400, _json(inputs=[{"name": "INPUT0", "shape": [1, 16], "datatype": "FP32"}] * 2)),
    "an unknown type": Body(400, _json(input0={"datatype": "FP31"})),
    "too few values": Body(500, _json(input0={"data": [1.0]})),
    "shared memory nobody registered": Body(
        400, _json(input0={"parameters": {"shared_memory_region": "x", "shared_memory_byte_size": 64}})
    ),
    "a reserved parameter": Body(400, _json(parameters={"triton_x": 1})),
    "binary sizes above the data": _binary(64, 1 << 40),
    "binary sizes below the data": _binary(32, 32),
    "a negative binary size": _binary(-64, 64, status=500),
    "a good text": _text(b"\x03\0\0\0abc", 200),
    "a text that is longer than the data": _text(b"\x04\0\0\0abc"),
    "a text of 4 GB in 7 bytes": _text(b"\xff\xff\xff\xffabc"),
    "a text whose length is cut short": _text(b"\x03\0\0\0abc\x01\0"),
    "a header length inside the JSON": _binary(64, 64, header=10, status=500),
    "a wrong Content-Encoding": Body(400, _json(), (b"Content-Encoding: gzip",)),
    "an unknown Content-Encoding": Body(501, _json(), (b"Content-Encoding: br",)),
    "a gzip bomb of 128 MB": Body(500, gzip.compress(bytes(1 << 27), 9), (b"Content-Encoding: gzip",)),
}
