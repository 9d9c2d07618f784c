"""Where the backends of a pool are: as written, or every address behind a name, looked up again and again."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import random
from typing import Protocol
from urllib.parse import urlsplit

from gateway.core.pool import Backend, Pool

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 5.0
_MAX_ADDRESSES = 256
Lookup = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One endpoint.

    Attributes:
        url: stands for it in reports and commands; for an address behind a name the one with the address.
        host, port: where to connect to.
        name: the host as written, for TLS.
        authority: the Host field's value.
        tls: whether it speaks https.
        weight: relative capacity.
        metrics_port: of Triton's metrics on the same host; 0 when they are not read.
    """

    url: str
    host: str
    port: int
    name: str
    authority: str
    tls: bool
    weight: float
    metrics_port: int


def address(backend: Backend, host: str = "") -> Address:
    """A backend's address as written, or with one of the hosts that its name stands for."""
    parts = urlsplit(backend.url)
    name = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    return Address(
        url=f"{parts.scheme}://{shown}:{port}" if host else backend.url,
        host=host or name,
        port=port,
        name=name,
        authority=parts.netloc,
        tls=parts.scheme == "https",
        weight=backend.weight,
        metrics_port=backend.metrics_port,
    )


async def system_lookup(host: str, port: int) -> list[str]:
    """All addresses of a name, as this machine resolves names; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Resolved(Protocol):
    """A pool that takes in what its names stand for."""

    config: Pool
    retired: bool

    def resolved(self, url: str, hosts: tuple[str, ...]) -> None:
        """The name in that backend's url has these addresses now; never none."""


async def keep_resolved(pool: Resolved, lookup: Lookup) -> None:
    """Looks the names of a pool up until it retires.

    A name that cannot be looked up keeps the addresses it had: the name service may fail without the backends.
    """
    failing: set[str] = set()
    while not pool.retired:
        for backend in pool.config.backends:
            if not backend.dns:
                continue
            written = address(backend)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    hosts = tuple(sorted(set(await lookup(written.name, written.port))))[:_MAX_ADDRESSES]
            except (OSError, TimeoutError, UnicodeError) as error:
                if backend.url not in failing:
                    failing.add(backend.url)
                    reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
                    _LOG.warning("cannot look up %s (%s); its last addresses stay", written.name, reason)
                continue
            if hosts:
                failing.discard(backend.url)
                pool.resolved(backend.url, hosts)
        await asyncio.sleep(pool.config.resolve_s * (0.9 + 0.2 * random()))
