"""Who may use the admin API: a bearer token, or without one only programs on this machine."""

import hmac
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import is_loopback
from gateway.errors import ConfigError

_OPEN = frozenset({"/healthz", "/readyz"})
_MIN_TOKEN = 16


def read_token(path: Path) -> str:
    """The token in the first line of a file; raises ConfigError."""
    try:
        token = path.read_text(encoding="ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII"
        raise ConfigError([f"admin.token_file: cannot read {path}: {reason}"]) from error
    if len(token) < _MIN_TOKEN:
        raise ConfigError([f"admin.token_file: the first line of {path} needs at least {_MIN_TOKEN} characters"])
    return token


class Guard:
    """ASGI middleware that answers 401 or 403 itself.

    Without a token only requests whose Host is a loopback name pass: a web page that a browser on this machine shows
    can reach the port under a name of its own (DNS rebinding), but not under ours.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on or refuses it."""
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            refusal = self._refusal(Headers(scope=scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        if not self._token:
            host = headers.get("host", "").rpartition("]")
            name = host[0].lstrip("[") if host[0] else host[2].partition(":")[0]
            if is_loopback(name):
                return None
            return JSONResponse({"error": f"host {name!r} is not this machine; set a token to allow it"}, 403)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return None
        challenge = {"www-authenticate": "Bearer"}
        return JSONResponse({"error": "a valid bearer token is required"}, 401, headers=challenge)
