"""What a pool of backends is: the part of the configuration that decisions need."""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le, Len

# Understood by pydantic when a file is checked; msgspec and the workers ignore it.
STRICT = {"extra": "forbid", "coerce_numbers_to_str": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One Triton HTTP endpoint.

    Attributes:
        url: `http://host:port` or `https://host:port`, without a path.
        weight: relative capacity; in-flight counts are divided by it when balancing.
        metrics_port: Triton's metrics port; with it, requests that wait inside Triton count as load when balancing, and
            shadows pause while they pile up. 0 reads no metrics.
        grpc_port: Triton's gRPC port on the same host; models are loaded and unloaded over it, with TLS where the url
            has it. 0 does that over HTTP, where requests on most of Triton's connections wait until a load is done.
        dns: every address that the url's name has is a backend of its own, and the name is looked up again and again.
    """

    __pydantic_config__: ClassVar = STRICT

    url: Annotated[str, Len(1, 300)]
    weight: Annotated[float, Gt(0), Le(1000)] = 1.0
    dns: bool = False
    metrics_port: Annotated[int, Ge(0), Le(65535)] = 0
    grpc_port: Annotated[int, Ge(0), Le(65535)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTls:
    """How the gateway speaks TLS to `https` backends. Files are read again when they change.

    Attributes:
        ca_file: authorities that may have signed the backends' certificates; the system's when empty.
        cert_file: the gateway's own certificate for backends that ask for one, with its chain.
        key_file: its private key; in `cert_file` when empty.
        server_name: name sent to the backend (SNI) and expected in its certificate; the url's host when empty.
        verify: check the backend's certificate. False encrypts without knowing for whom.
    """

    __pydantic_config__: ClassVar = STRICT

    ca_file: Annotated[str, Len(0, 1000)] = ""
    cert_file: Annotated[str, Len(0, 1000)] = ""
    key_file: Annotated[str, Len(0, 1000)] = ""
    server_name: Annotated[str, Len(0, 253)] = ""
    verify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceProbe:
    """A real inference as part of a probe: finds a server that is ready and answers nothing useful.

    Attributes:
        model: name of the model in Triton.
        body: the request's JSON.
    """

    __pydantic_config__: ClassVar = STRICT

    model: Annotated[str, Len(1, 200)]
    body: Annotated[str, Len(2, 100_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Active health check of every backend of a pool.

    Attributes:
        interval_s: time between two probes of one backend; 0 turns probing off.
        timeout_s: a probe without an answer by then has failed.
        healthy_after: consecutive successes that bring a backend back.
        unhealthy_after: consecutive failures that take it out.
        inference: also send this request with every probe, which must be answered with 200.
        models_interval_s: time between two questions to every backend whether it has the models of the pool's
            variants ready; requests go to those that have, and to none that has answered otherwise since. 0 asks only
            once, for the models' configurations.
    """

    __pydantic_config__: ClassVar = STRICT

    interval_s: Annotated[float, Ge(0), Le(3600)] = 1.0
    timeout_s: Annotated[float, Gt(0), Le(60)] = 1.0
    healthy_after: Annotated[int, Ge(1), Le(100)] = 1
    unhealthy_after: Annotated[int, Ge(1), Le(100)] = 2
    inference: InferenceProbe | None = None
    models_interval_s: Annotated[float, Ge(0), Le(3600)] = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejection:
    """Passive ejection after consecutive failures, as in Envoy's outlier detection.

    Attributes:
        consecutive: failures in a row that eject a backend; 0 turns ejection off.
        base_s: ejection time, multiplied by the number of ejections so far, jittered by +-20 %.
        max_s: upper bound of an ejection.
        max_percent: never eject more than this share of a pool (but one is always allowed).
    """

    __pydantic_config__: ClassVar = STRICT

    consecutive: Annotated[int, Ge(0), Le(1000)] = 5
    base_s: Annotated[float, Gt(0), Le(3600)] = 30.0
    max_s: Annotated[float, Gt(0), Le(86400)] = 300.0
    max_percent: Annotated[float, Ge(0), Le(100)] = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The backends that can serve a variant, and how they are used.

    Attributes:
        name: what variants refer to.
        backends: at least one endpoint.
        max_in_flight: leases per backend and worker; beyond it a backend is full.
        max_idle: keep-alive connections kept per backend and worker.
        connect_timeout_s: time to establish a connection.
        idle_timeout_s: an idle keep-alive connection is closed after this.
        panic_percent: with fewer available backends than this share, all are used but the drained ones.
        slow_start_s: a backend that is new or comes back reaches its full weight after this; 0 gives it at once.
        resolve_s: time between two look-ups of a `dns` backend's name.
        tls: for `https` backends.
        drained: urls of backends that get nothing new, for maintenance. Set by `sluice drain`.
    """

    __pydantic_config__: ClassVar = STRICT

    name: Annotated[str, Len(1, 100)]
    backends: Annotated[tuple[Backend, ...], Len(1, 1000)]
    max_in_flight: Annotated[int, Ge(1), Le(100_000)] = 1024
    max_idle: Annotated[int, Ge(0), Le(10_000)] = 256
    connect_timeout_s: Annotated[float, Gt(0), Le(60)] = 2.0
    idle_timeout_s: Annotated[float, Gt(0), Le(3600)] = 30.0
    panic_percent: Annotated[float, Ge(0), Le(100)] = 50.0
    probe: Probe = field(default_factory=Probe)
    ejection: Ejection = field(default_factory=Ejection)
    slow_start_s: Annotated[float, Ge(0), Le(3600)] = 10.0
    resolve_s: Annotated[float, Ge(0.05), Le(3600)] = 5.0
    tls: BackendTls = field(default_factory=BackendTls)
    drained: Annotated[tuple[Annotated[str, Len(1, 300)], ...], Len(0, 1000)] = ()


def keep_drained(pools: tuple[Pool, ...], before: tuple[Pool, ...]) -> tuple[Pool, ...]:
    """The same pools with the backends still out of service that were so before, as far as they still exist."""
    out = {pool.name: pool.drained for pool in before}

    def kept(pool: Pool) -> Pool:
        names = any(backend.dns for backend in pool.backends)
        urls = {backend.url for backend in pool.backends}
        more = (url for url in out.get(pool.name, ()) if url not in pool.drained and (names or url in urls))
        return replace(pool, drained=(*pool.drained, *more))

    return tuple(kept(pool) for pool in pools)
