"""A small closed-loop load of raw keep-alive connections that tells every kind of failure apart."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Load:
    """What the clients saw so far.

    Attributes:
        statuses: answers by HTTP status.
        wrong: answers whose body was not the expected one.
        refused: connections that were not accepted.
        lost: requests whose connection ended before the answer was whole.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    refused: int = 0
    lost: int = 0

    @property
    def answered(self) -> int:
        """Answers of any status."""
        return sum(self.statuses.values())


async def _read(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    body = await reader.readexactly(int(fields["content-length"]))
    return int(head.split()[1]), fields.get("x-sluice-variant", ""), body


async def _client(load: Load, url: str, model: str, number: int, stop: asyncio.Event) -> None:
    """One client: sends a value of its own again and again; the answer must be that value plus the version."""
    address = urlsplit(url)
    value = float(number * 1000)
    body = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
    writer: asyncio.StreamWriter | None = None
    while not stop.is_set():
        if writer is None:
            try:
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
            except OSError:
                load.refused += 1
                continue
        try:
            writer.write(head.encode() + body)
            status, variant, answer = await asyncio.wait_for(_read(reader), 20)
        except (OSError, asyncio.IncompleteReadError):
            load.lost += 1
            writer.close()
            writer = None
            continue
        load.statuses[status] += 1
        load.variants[variant] += 1
        if status == 200 and json.loads(answer)["outputs"][0]["data"][0] != value + float(variant[1:]):
            load.wrong += 1
    if writer is not None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def loading(url: str, model: str, clients: int = 8) -> AsyncIterator[Load]:
    """Keeps clients busy while the block runs; the model is the zoo's `versioned` behind variants v1, v2, ..."""
    load, stop = Load(), asyncio.Event()
    tasks = [asyncio.create_task(_client(load, url, model, number, stop)) for number in range(clients)]
    try:
        while load.answered < clients:
            await asyncio.sleep(0.01)
        yield load
    finally:
        stop.set()
        await asyncio.gather(*tasks)
