"""Choosing and checking the ports of a local Triton."""

import errno
import socket
from collections.abc import Mapping

from gateway.errors import ResourceError


def settle(host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """Turn wanted ports into free ones: a 0 becomes a free port, any other must be free now.

    All are held at once while choosing, so they differ. Nothing keeps another program from taking one afterwards.

    Args:
        host: address the server will listen on.
        wanted: port by purpose (`http`, `grpc`, `metrics`).

    Raises:
        ResourceError: a port is taken or may not be used, or the address is not this machine's.
    """
    chosen: dict[str, int] = {}
    held: list[socket.socket] = []
    try:
        # Named ports first, or a 0 might be given one of them.
        for purpose, port in sorted(wanted.items(), key=lambda item: item[1] == 0):
            try:
                family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                listener = socket.socket(family, kind, protocol)
                held.append(listener)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(1)
            except OSError as error:
                raise ResourceError(_explain(host, purpose, port, error)) from None
            chosen[purpose] = listener.getsockname()[1]
    finally:
        for listener in held:
            listener.close()
    return {purpose: chosen[purpose] for purpose in wanted}


def _explain(host: str, purpose: str, port: int, error: OSError) -> str:
    option = f"--{purpose}-port"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another with {option}, or 0 for any free one"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} may not be used by this user; choose one above 1023 with {option}"
    return f"cannot listen on {host}: {error.strerror or error}"
