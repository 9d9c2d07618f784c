"""A crowd of clients that do no good: idle ones, and ones that send a request one byte at a time.

It runs as a process of its own, `python -m loadtest.resilience.crowd`, prints how many connections it holds once all
are there, and ends with its standard input. A client that is shut out comes back.
"""

import contextlib
import resource
import select
import socket
import struct
import sys
import time
from enum import StrEnum
from typing import Annotated, Final

import typer

_RESET: Final = struct.pack("ii", 1, 0)
_TICKS: Final = 200
_SPARE_DESCRIPTORS: Final = 100
_START: Final = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: gateway\r\n"
# The first body fits into the gateway's memory whole, the second is one that it forwards as it comes.
_OPENINGS: Final = (
    _START + b"X-Slow: ",
    _START + b"Content-Length: 60000\r\n\r\n",
    _START + b"Content-Length: 600000\r\n\r\n",
)


class Kind(StrEnum):
    """What its clients do."""

    IDLE = "idle"
    SLOW = "slow"  # a third each: heads, short bodies, long bodies


def affordable(wanted: int) -> int:
    """How many of the connections the descriptor limit of one process allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - _SPARE_DESCRIPTORS)


class Crowd:
    """Its sockets; blocking to connect, which on loopback takes no time, and never blocking afterwards."""

    def __init__(self, port: int, source: str, kind: Kind) -> None:
        self._port = port
        self._source = source
        self._kind = kind
        self._clients: list[socket.socket] = []
        self._shut_out = 0

    def grow(self, count: int) -> int:
        """Connects so many more; returns how many there are."""
        for _ in range(count):
            self._clients.append(self._connect(len(self._clients)))
        return len(self._clients)

    def _connect(self, number: int) -> socket.socket:
        client = socket.socket()
        client.settimeout(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # leaves no TIME_WAIT behind
        client.bind((self._source, 0))
        client.connect(("127.0.0.1", self._port))
        client.setblocking(False)
        if self._kind is Kind.SLOW:
            client.send(_OPENINGS[number % len(_OPENINGS)])
        return client

    def drip(self, turn: int) -> None:
        """One byte from every client whose turn it is; those that were shut out come back."""
        for number in range(turn % _TICKS, len(self._clients), _TICKS):
            client = self._clients[number]
            try:
                client.send(b"x")
                client.recv(4096)  # an answer, or the end: either way it was shut out
            except BlockingIOError:
                continue
            except OSError:
                pass
            self._shut_out += 1
            client.close()
            with contextlib.suppress(OSError):
                self._clients[number] = self._connect(number)

    def close(self) -> int:
        """Leaves; returns how often one was shut out."""
        for client in self._clients:
            client.close()
        return self._shut_out


def main(
    *,
    port: Annotated[int, typer.Option(help="Of the gateway, on 127.0.0.1.")],
    clients: Annotated[int, typer.Option(min=1, help="How many.")],
    kind: Annotated[Kind, typer.Option(help="What they do.")] = Kind.SLOW,
    source: Annotated[str, typer.Option(help="Address they come from.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two bytes of a slow client.")] = 2.0,
) -> None:
    """Clients that do no good."""
    crowd = Crowd(port, source, kind)
    held = crowd.grow(affordable(clients))
    typer.echo(held)
    turn = 0
    due = time.monotonic()
    while True:
        due += every / _TICKS
        if select.select([sys.stdin], [], [], max(due - time.monotonic(), 0))[0]:
            break
        if kind is Kind.SLOW:
            crowd.drip(turn)
            turn += 1
    typer.echo(crowd.close())


if __name__ == "__main__":
    typer.run(main)
