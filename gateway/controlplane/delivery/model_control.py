"""Triton's model control over gRPC, beside the traffic.

Over HTTP a load keeps one of Triton's HTTP threads to its end, and the next request on each connection of that thread
waits for it; Triton gives most connections to one thread (server issues 8958 and 8635; on 2.51.0, 61 of 64 connections
waited out a load of 4 s, and none when the same load came over gRPC, which has threads of its own).
"""

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from gateway.controlplane.delivery.backend_errors import BusyError, RefusedError, UnavailableError
from gateway.core.pool import BackendTls, Pool

Verb = Literal["load", "unload"]


@dataclass(frozen=True, slots=True)
class _Service:
    """Where a backend's gRPC listens; `tls` is None for plain text."""

    address: str
    tls: BackendTls | None


class ModelControl:
    """Load and unload orders to backends that have a `grpc_port`.

    Args:
        pools: the pools as they are now.
    """

    def __init__(self, pools: Callable[[], Sequence[Pool]]) -> None:
        self._pools = pools

    async def order(self, url: str, model: str, verb: Verb, config: str | None, timeout_s: float) -> bool:
        """Gives an order and waits until it is done; False, with nothing done, where the backend has no gRPC.

        Args:
            url: the backend, without a final slash.
            model: name in Triton.
            verb: what to do.
            config: for a load, the configuration as JSON instead of the repository's.
            timeout_s: no longer; what Triton has begun by then goes on.

        Raises:
            RefusedError: Triton says no.
            UnavailableError: it does not answer; as BusyError when it took the order and did not end in time.
        """
        service = _service(url, self._pools())
        if service is None:
            return False
        try:
            # A channel of its own for each order: they are rare, and files of certificates may have changed.
            options = await asyncio.to_thread(_prepare, service)
        except OSError as error:
            raise UnavailableError(f"{url}: cannot read {error.filename}: {error.strerror}") from error
        from tritonclient.grpc.aio import InferenceServerClient  # noqa: PLC0415 - see _prepare
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415

        try:
            async with InferenceServerClient(service.address, **options) as client:
                if verb == "load":
                    await client.load_model(model, config=config, client_timeout=timeout_s)
                else:
                    await client.unload_model(model, client_timeout=timeout_s)
        except InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            text = f"{url}, gRPC on {service.address}: {error.message()}"
            if status == "DEADLINE_EXCEEDED":
                raise BusyError(text) from error
            raise (UnavailableError if status in {"UNAVAILABLE", "CANCELLED"} else RefusedError)(text) from error
        return True


def _service(url: str, pools: Sequence[Pool]) -> _Service | None:
    for pool in pools:
        for backend in pool.backends:
            if backend.grpc_port and backend.url.rstrip("/") == url:
                host = urlsplit(url).hostname or ""
                address = f"[{host}]:{backend.grpc_port}" if ":" in host else f"{host}:{backend.grpc_port}"
                return _Service(address, pool.tls if url.startswith("https://") else None)
    return None


def _prepare(service: _Service) -> dict[str, Any]:
    """What a client of this service is made with; reads files, and the first time imports a large library."""
    # Errors are raised as well; lines of its own would stand between those of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc  # noqa: PLC0415
    import tritonclient.grpc.aio  # noqa: F401, PLC0415

    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if service.tls is None:
        return {"channel_args": options}
    tls = service.tls
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_content(tls.ca_file or ssl.get_default_verify_paths().cafile or ""),
        private_key=_content(tls.key_file or tls.cert_file),
        certificate_chain=_content(tls.cert_file),
    )
    return {"channel_args": options, "creds": credentials}


def _content(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
