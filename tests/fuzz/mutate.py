"""Inputs for the fuzz targets: seeds of each kind, changed a little, and mixed with one another."""

import random
from pathlib import Path

from gateway.core.pool import Backend, Pool
from gateway.core.route import Route, RouteTable, Variant
from gateway.messages import Applied, Hello, Publish, frame
from tests.wire.backend_faults import BEFORE, ODD
from tests.wire.bad_inputs import CASES

CORPUS = Path(__file__).parent / "corpus"
_MAX = 2000
# Pieces that parsers stumble over.
_TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b"0",
    b"-1",
    b"+1",
    b"0x1",
    b"ffffffff",
    b"Content-Length: 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding:chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: x\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/1.10",
    b"HEAD ",
    b"GET ",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"\r\n 1",
    b"\xff",
    b"\x80",
    b"%2e%2e",
    b"%00",
    b"//",
    b"..",
    b"?",
    b"#",
    b"@",
    b"Inference-Header-Content-Length: 2\r\n",
    b"x-sluice-timeout-ms: 5\r\n",
    b"{",
    b"[",
    b"}",
    b"]",
    b'"',
    b"\\u0000",
    b'{"parameters":{"sequence_id":',
    b'"sequence_start":true',
    b'"timeout":',
    b"null",
    b"1e999",
    b"18446744073709551616",
)
_RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
)
_JSON = (
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
    b'{"parameters":{"sequence_id":7,"sequence_start":true,"timeout":5000}}',
    b'{"sequence_id":"s","sequence_end":true,"text_input":"a"}',
)


def _seeds() -> dict[str, list[bytes]]:
    requests = [data for case in CASES.values() if len(data := case.bytes()) < _MAX]
    odd = [script.raw.encode("latin-1") for script in (*(s for s, _ in BEFORE.values()), *ODD.values()) if script.raw]
    answers = [*_RESPONSES, *(data for data in odd if len(data) < _MAX)]
    chunked = [data.partition(b"\r\n\r\n")[2] for data in requests if b"chunked" in data]
    targets = [data.split(b" ")[1] for data in requests if data.count(b" ") > 1]
    table = RouteTable(
        generation=1,
        routes=(Route(name="m", variants=(Variant(name="a", model="m", weight=100.0),)),),
        pools=(Pool(name="default", backends=(Backend(url="http://x:1"),)),),
    )
    messages = [
        frame(Hello(worker=0, incarnation="x", pid=1, generation=0)),
        frame(Applied(worker=0, incarnation="x", generation=3)),
        frame(Publish(table=table)),
    ]
    seeds = {
        "connection": requests,
        "request_head": [data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for data in requests],
        "backend_answer": answers,
        "response_head": [data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for data in answers],
        "chunks": chunked,
        "target_path": targets,
        "json_body": list(_JSON),
        "frames": messages,
    }
    for name, known in seeds.items():
        known += [path.read_bytes() for path in sorted(CORPUS.glob(f"{name}-*"))]
    return seeds


class Mutator:
    """Endless inputs for one target, the same ones for the same seed."""

    def __init__(self, target: str, seed: int) -> None:
        self.chance = random.Random(f"{target}/{seed}")
        self._seeds = _seeds()[target]

    def next(self) -> bytes:
        """One input."""
        chance = self.chance
        data = bytearray(chance.choice(self._seeds))
        for _ in range(chance.choice((0, 1, 1, 2, 3, 6))):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(7):
                case 0:
                    data[at:at] = chance.choice(_TOKENS)
                case 1:
                    data[at : at + chance.randrange(8)] = chance.choice(_TOKENS)
                case 2:
                    del data[at : at + chance.randrange(1, 12)]
                case 3 if data:
                    data[at - 1] ^= 1 << chance.randrange(8)
                case 4:
                    other = chance.choice(self._seeds)
                    start = chance.randrange(len(other) + 1)
                    data[at:] = other[start:]
                case 5:
                    data[at:at] = bytes(data[at : at + chance.randrange(40)])
                case _:
                    data += chance.choice(self._seeds)
        return bytes(data[: 2 * _MAX])
