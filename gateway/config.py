"""Contents of sluice.yaml: one process group's frozen settings. Units are in the names."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le, Len

from gateway.config_delivery import Delivery
from gateway.config_security import Auth, Tls
from gateway.config_supervision import Supervision
from gateway.config_tracing import Tracing
from gateway.core.pool import STRICT, Backend, Pool
from gateway.core.route import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """An address to listen on; port 0 takes a free one. With `tls` nothing else is spoken there."""

    __pydantic_config__: ClassVar = STRICT

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 0
    tls: Tls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may send and how long it may take, per worker where nothing else is said.

    Attributes:
        max_head_bytes: request line and headers together (431 beyond).
        max_headers: number of header fields (431 beyond).
        max_target_bytes: request target (414 beyond).
        max_body_bytes: request body after transfer decoding (413 beyond).
        max_response_head_bytes: a backend's status line and headers (502 beyond).
        max_connections: client connections; beyond it new ones wait in the listen backlog.
        max_in_flight: requests under way (503 beyond).
        max_buffered_bytes: bodies held for retries, mirrors and sequences, all requests together (503 beyond). Of
            requests that have not arrived whole, half as much may be held besides, but at least 8 MiB.
        max_rss_bytes: resident memory of a worker above which it sheds new inferences (503); 0 for no ceiling.
        max_held_bytes: body of one request that may be held; a larger one streams and gives up its retry.
        max_gathered_bytes: body of one request that must be read whole for its sequence or its queue timeout (413
            beyond).
        stream_above_bytes: larger bodies are forwarded as they arrive.
        head_timeout_s: time from a request's first byte to its last header (408 beyond).
        body_timeout_s: time for the first `stream_above_bytes` of a body and then for each 8 KiB (408 beyond).
        idle_timeout_s: a keep-alive connection without a request is closed after this.
        write_timeout_s: a client that takes nothing of its response for so long is cut off.
        linger_s: how long a slot stays taken for a backend that still works for a client that is gone.
        drain_s: grace for requests in flight when the process is told to stop.
        drain_idle_s: a worker that is replaced keeps a connection that long without a request (but no longer than half
            of `drain_s`), so that the next one is answered, with `Connection: close`. At the end of the gateway: 1 s.
        unready_s: before that it says for so long that it is not ready, and still serves: load balancers need time.
    """

    __pydantic_config__: ClassVar = STRICT

    max_head_bytes: Annotated[int, Ge(256), Le(1 << 20)] = 32 << 10
    max_headers: Annotated[int, Ge(1), Le(10_000)] = 100
    max_target_bytes: Annotated[int, Ge(16), Le(1 << 16)] = 8 << 10
    max_body_bytes: Annotated[int, Ge(0), Le(1 << 34)] = 1 << 30
    max_response_head_bytes: Annotated[int, Ge(256), Le(1 << 20)] = 64 << 10
    max_connections: Annotated[int, Ge(1), Le(1_000_000)] = 20_000
    max_in_flight: Annotated[int, Ge(1), Le(1_000_000)] = 8192
    max_buffered_bytes: Annotated[int, Ge(0), Le(1 << 40)] = 256 << 20
    max_rss_bytes: Annotated[int, Ge(0), Le(1 << 44)] = 0
    max_held_bytes: Annotated[int, Ge(0), Le(1 << 34)] = 256 << 10
    max_gathered_bytes: Annotated[int, Ge(0), Le(1 << 34)] = 64 << 20
    stream_above_bytes: Annotated[int, Ge(0), Le(1 << 30)] = 64 << 10
    head_timeout_s: Annotated[float, Gt(0), Le(3600)] = 10.0
    body_timeout_s: Annotated[float, Gt(0), Le(3600)] = 30.0
    idle_timeout_s: Annotated[float, Gt(0), Le(86_400)] = 60.0
    write_timeout_s: Annotated[float, Gt(0), Le(3600)] = 60.0
    linger_s: Annotated[float, Ge(0), Le(3600)] = 30.0
    drain_s: Annotated[float, Ge(0), Le(3600)] = 20.0
    drain_idle_s: Annotated[float, Ge(0), Le(3600)] = 5.0
    unready_s: Annotated[float, Ge(0), Le(600)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """The admin API's address and, for anything beyond loopback, who may use it.

    Attributes:
        token_file: file whose first line is a bearer token with the role admin; without this and `tokens_file` the
            API is open, to this machine only.
        tokens_file: hashed tokens, each with a name and a role, kept by `sluice tokens`; read again when it changes.
        tls: with it nothing else is spoken there.
    """

    __pydantic_config__: ClassVar = STRICT

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 8081
    token_file: str = ""
    tokens_file: str = ""
    tls: Tls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Structured logs on standard error.

    Attributes:
        access: share of the inferences that get a line of their own, 0 to 1. Those lines are always JSON.
    """

    __pydantic_config__: ClassVar = STRICT

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"
    access: Annotated[float, Ge(0), Le(1)] = 0.0


def _local_pools() -> tuple[Pool, ...]:
    return (Pool(name="default", backends=(Backend(url="http://127.0.0.1:8000", grpc_port=8001),)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of sluice.yaml; every value has a default that serves a Triton on this machine.

    Attributes:
        listen: the data plane's address.
        admin: the admin API's address.
        workers: data-plane processes.
        pools: the fleet.
        limits: bounds on clients and on the gateway's own memory.
        state_dir: directory of the embedded store and of run-time files.
        store: SQLAlchemy URL of the store; empty means SQLite inside `state_dir`.
        report_interval_s: how often workers report to the controller.
        log: logging.
        auth: who may use the data plane.
        delivery: rollouts, webhooks and ground truth.
        tracing: spans of inferences; off where it is missing.
        supervision: patience with processes that hang.
    """

    __pydantic_config__: ClassVar = STRICT

    listen: Listen = field(default_factory=lambda: Listen(port=8080))
    admin: Admin = field(default_factory=Admin)
    workers: Annotated[int, Ge(1), Le(256)] = 1
    pools: Annotated[tuple[Pool, ...], Len(1, 1000)] = field(default_factory=_local_pools)
    limits: Limits = field(default_factory=Limits)
    state_dir: str = ".sluice"
    store: str = ""
    report_interval_s: Annotated[float, Ge(0.05), Le(60)] = 1.0
    log: Log = field(default_factory=Log)
    auth: Auth = field(default_factory=Auth)
    delivery: Delivery = field(default_factory=Delivery)
    tracing: Tracing | None = None
    supervision: Supervision = field(default_factory=Supervision)


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def config_problems(config: Config) -> Iterator[Problem]:
    """Contradictions between values of sluice.yaml that are each valid."""
    if not is_loopback(config.admin.host) and not config.admin.token_file and not config.admin.tokens_file:
        what = f"{config.admin.host!r} is reachable from other machines; set admin.token_file or use 127.0.0.1"
        yield Problem(("admin", "host"), what)
    if config.listen.port and config.listen.port == config.admin.port:
        yield Problem(("admin", "port"), f"port {config.admin.port} is already the data plane's")
    if config.supervision.kill_s <= config.supervision.warn_s:
        what = f"must be more than warn_s ({config.supervision.warn_s:g}), is {config.supervision.kill_s:g}"
        yield Problem(("supervision", "kill_s"), what)
    names: set[str] = set()
    for i, pool in enumerate(config.pools):
        if pool.name in names:
            yield Problem(("pools", i, "name"), f"pool {pool.name!r} appears twice")
        names.add(pool.name)
        urls: set[str] = set()
        for j, backend in enumerate(pool.backends):
            where = ("pools", i, "backends", j, "url")
            if fault := _url_fault(backend.url):
                yield Problem(where, f"{backend.url!r} is not a backend's address: {fault}")
            if backend.grpc_port and backend.url.startswith("https://") and not pool.tls.verify:
                what = "gRPC checks the certificate; name its authority in tls.ca_file, or set 0 to load over HTTP"
                yield Problem(("pools", i, "backends", j, "grpc_port"), what)
            if backend.url in urls:
                yield Problem(where, f"backend {backend.url} appears twice in pool {pool.name!r}")
            urls.add(backend.url)


def _url_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in {"http", "https"}:
        return "it must start with http:// or https://"
    if not parts.hostname or port == 0:
        return "it must name a host, as in http://127.0.0.1:8000"
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        return "only scheme, host and port are allowed"
    return ""
