"""wrk as the load generator: one thread, a few prepared requests sent in turn, its output parsed."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from loadtest.errors import BrokenRunError
from loadtest.overhead.stub import find
from loadtest.v2body import HEADER_LENGTH

STICKY_HEADER: Final = "x-sticky-key"
PATH: Final = "/v2/models/m/infer"
_UNITS: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}
_MARGIN_S: Final = 70.0

# The tensor is a run of one byte: a proxy does not look at it, and it keeps the script small.
_SCRIPT: Final = """
local requests = {{}}
function init(args)
  local body = [[{json}]] .. string.rep("{fill}", {binary})
  for i = 1, {keys} do
    local headers = {{ ["Content-Type"] = "{content_type}", ["{sticky}"] = "user-" .. i }}
    {length_header}
    requests[i] = wrk.format("POST", "{path}", headers, body)
  end
end
local n = 0
function request()
  n = n % {keys} + 1
  return requests[n]
end
"""


class Payload(msgspec.Struct, frozen=True):
    """A kind of request: its JSON, the bytes of tensor after it, and how many sticky keys take turns.

    `refusal` says that every answer must be 503.
    """

    name: str
    json: str
    binary: int
    keys: int
    path: str = PATH
    refusal: bool = False


class Measured(msgspec.Struct, frozen=True):
    """What wrk saw: answered requests, their rate, latencies in microseconds, and everything that went wrong."""

    requests: int
    rate_per_s: float
    p50_us: float
    p99_us: float
    errors: int


def small() -> Payload:
    """One row of 20 numbers as JSON."""
    data = ",".join(f"0.{i:02d}" for i in range(20))
    text = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,20],"data":[' + data + "]}]}"
    return Payload("small", text, 0, keys=100)


def refused() -> Payload:
    """The same row for a model whose limit is reached."""
    return Payload("refused", small().json, 0, keys=100, path=PATH.replace("/m/", "/full/"), refusal=True)


def plain(payload: Payload) -> bytes:
    """A request without tensors as bytes."""
    head = f"POST {payload.path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(payload.json)}\r\n\r\n{payload.json}".encode()


def tensor(name: str, size: int, *, keys: int = 10) -> Payload:
    """One binary tensor of `size` bytes."""
    header = '{"inputs":[{"name":"x","datatype":"UINT8","shape":[1,%d],"parameters":{"binary_data_size":%d}}]}'
    return Payload(name, header % (size, size), size, keys)


def script(payload: Payload) -> str:
    """The Lua that makes wrk send it."""
    length = f'headers["{HEADER_LENGTH}"] = "{len(payload.json)}"' if payload.binary else ""
    return _SCRIPT.format(
        json=payload.json,
        fill="x",
        binary=payload.binary,
        keys=payload.keys,
        content_type="application/octet-stream" if payload.binary else "application/json",
        sticky=STICKY_HEADER,
        length_header=length,
        path=payload.path,
    )


def measure(
    port: int, payload: Payload, *, connections: int, seconds: float, folder: Path, cpu: Sequence[str]
) -> Measured:
    """Send `payload` as fast as answers come for `seconds` (rounded up to whole ones).

    Raises:
        MissingToolError: wrk is not installed.
        BrokenRunError: wrk failed or its output is not understood.
    """
    wrk = find("wrk", "wrk")
    lua = folder / f"{payload.name}.lua"
    if not lua.exists():
        lua.write_text(script(payload))
    whole = max(1, -int(-seconds // 1))
    done = subprocess.run(
        [*cpu, wrk, "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "60s", "--latency", "-s", str(lua),
         f"http://127.0.0.1:{port}"],
        capture_output=True, text=True, timeout=whole + _MARGIN_S, check=False,
    )  # fmt: skip
    return parse(done.stdout + done.stderr, refusal=payload.refusal)


def parse(text: str, *, refusal: bool = False) -> Measured:
    """Figures out of wrk's report; with `refusal` it is the answers with 2xx or 3xx that are wrong.

    Raises:
        BrokenRunError: a figure is not there.
    """
    counted = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not counted or not rate:
        raise BrokenRunError(f"wrk reported nothing:\n{text.strip()}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    requests, failed = int(counted[1]), int(bad[1]) if bad else 0
    errors = (requests - failed if refusal else failed) + (sum(map(int, sockets.groups())) if sockets else 0)
    return Measured(requests, float(rate[1]), _latency(text, 50), _latency(text, 99), errors)


def _latency(text: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if not found:
        raise BrokenRunError(f"wrk reported no {percent}th percentile:\n{text.strip()}")
    return float(found[1]) * _UNITS[found[2]]
