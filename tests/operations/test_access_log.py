"""The log of requests: what a line says, and that nobody waits for whoever reads it."""

import json
import os
import select
import socket
from pathlib import Path
from typing import Any

from gateway.telemetry.access import AccessLog
from tests.operations.backend import backend
from tests.operations.serving import Gateway, serving, settings, until

_REQUEST = (
    b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
    b"x-request-id: mine-3\r\nx-delay-ms: 5000\r\n\r\n{}"
)


def _lines(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Lines about requests by request id."""
    entries = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    return {entry["request_id"]: entry for entry in entries if entry.get("event") == "request"}


def test_a_line_says_what_became_of_a_request(tmp_path: Path) -> None:
    """By its id: who served it, how it ended, how large it was and how long it took."""
    log = {"format": "json", "access": 1.0}
    with backend() as triton, serving(tmp_path, settings(tmp_path, triton.url, log=log)) as gateway:
        answer = gateway.infer(headers={"x-request-id": "mine-1"}, body=b'{"a": 1}')
        assert answer.status_code == 200
        late = gateway.infer(headers={"x-request-id": "mine-2", "x-sluice-timeout-ms": "100", "x-delay-ms": "5000"})
        assert late.status_code == 504
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as leaver:
            leaver.sendall(_REQUEST)
            until(lambda: len(triton.heads) == 3)
        until(lambda: {"mine-1", "mine-2", "mine-3"} <= _lines(gateway).keys())
        found = _lines(gateway)
        good, bad, gone = found["mine-1"], found["mine-2"], found["mine-3"]
        told = {"route": "echo", "variant": "v1", "backend": triton.url, "attempts": 1, "process": "worker"}
        assert told.items() <= good.items()
        assert told.items() <= bad.items()
        assert told.items() <= gone.items()
        assert (good["outcome"], good["status"]) == ("ok", 200)
        assert (bad["outcome"], gone["outcome"]) == ("timeout", "cancelled")
        assert (good["request_bytes"], good["response_bytes"]) == (8, len(answer.content))
        assert bad["total_ms"] >= 100
        assert 0 < good["upstream_ms"] <= good["total_ms"]


def test_nobody_waits_for_the_reader() -> None:
    """Lines that find no room are dropped, and the next one that does says how many; none is lost unsaid."""
    read, write = os.pipe()
    log = AccessLog(1.0, 0, lambda: 0.0, write)
    count = 5000
    for number in range(count):
        log.line(number=number, text="x" * 200)
    text, numbers, dropped = b"", [], 0
    while len(numbers) + dropped < count:
        assert select.select([read], [], [], 20)[0], f"of {count} lines {len(numbers)} came, {dropped} were dropped"
        text += os.read(read, 1 << 20)
        log.line(number=-1)  # has room now, and brings the count of those that had none
        entries = [json.loads(line) for line in text.splitlines() if line.endswith(b"}")]
        numbers = [entry["number"] for entry in entries if entry["number"] >= 0]
        dropped = sum(entry.get("dropped_before", 0) for entry in entries)
    assert dropped > 0
    assert numbers == sorted(set(numbers))
    log.close()
    os.close(write)
    os.close(read)
