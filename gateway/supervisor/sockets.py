"""The listening sockets, owned by the supervisor so that no death of another process closes them."""

import errno
import os
import socket
import tempfile
from pathlib import Path

from gateway.errors import ResourceError

_BACKLOG = 4096
_FIRST_PASSED = 3
_NAMES = ("data", "admin")
_UNIX_PATH_MAX = 107  # sizeof(sockaddr_un.sun_path) - 1


def listen_tcp(host: str, port: int, option: str) -> socket.socket:
    """A listening socket; `option` names the setting to change in the message of a ResourceError.

    SO_REUSEPORT stays off: with it a second program on the same port would silently take half of the connections.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ResourceError(f"cannot listen on {host!r}: {error.strerror}; see {option}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ResourceError(_why(error, host, port, option)) from error
    listener.setblocking(False)
    return listener


def from_service_manager() -> dict[str, socket.socket]:
    """The listening sockets that systemd holds for this process, by the names data and admin (sd_listen_fds(3)).

    Sockets without a name are the data plane's and the admin API's, in that order.
    """
    environ = os.environ
    count = environ.pop("LISTEN_FDS", "0")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if environ.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdigit():
        return {}
    found = {}
    for i in range(int(count)):
        name = names[i] if i < len(names) and names[i] in _NAMES else _NAMES[min(i, 1)]
        listener = socket.socket(fileno=_FIRST_PASSED + i)
        listener.set_inheritable(False)
        listener.setblocking(False)
        found[name] = listener
    return found


def listen_unix(path: Path) -> socket.socket:
    """A listening Unix socket; raises ResourceError."""
    if len(os.fsencode(path)) > _UNIX_PATH_MAX:
        raise ResourceError(f"{path}: longer than the {_UNIX_PATH_MAX} bytes a Unix socket may have; set TMPDIR")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ResourceError(f"cannot create the control socket {path}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def runtime_dir() -> Path:
    """A fresh directory that only this user can enter (mode 0700)."""
    base = os.environ.get("XDG_RUNTIME_DIR") or None
    if base and not os.access(base, os.W_OK | os.X_OK):
        base = None
    try:
        return Path(tempfile.mkdtemp(prefix="sluice-", dir=base))
    except OSError as error:
        raise ResourceError(f"cannot create a runtime directory: {error.strerror or error}") from error


def ensure_state_dir(path: Path) -> None:
    """Makes the state directory and checks that it can be written; raises ResourceError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot create the state directory {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ResourceError(f"the state directory {path} cannot be written; see state_dir or --state-dir")


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """The URL under which a local client reaches a listening TCP socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{host}:{port}"


def _why(error: OSError, host: str, port: int, option: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is already in use; stop the other program or choose another with {option}"
        case errno.EACCES:
            return f"port {port} on {host} needs a privilege this user lacks; choose one above 1023 with {option}"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine; see {option}"
    return f"cannot listen on {host}:{port}: {error.strerror}; see {option}"
