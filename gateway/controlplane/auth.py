"""Who may do what with the admin API: tokens with roles, or without any token only programs on this machine."""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import Admin, is_loopback
from gateway.credentials import TOKEN_PREFIX, AdminToken, Role, load_tokens, recognise
from gateway.errors import ConfigError
from gateway.filewatch import FileWatch
from gateway.telemetry.logs import logger

_OPEN = frozenset({"/healthz", "/readyz"})
_MIN_TOKEN = 16
_WHO = "x-sluice-who"
# Each role may do what the ones before it may.
_ROLES: tuple[Role, ...] = ("read", "operate", "admin")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# What touches processes and files of the machine, not only what is served.
_ADMIN_PATHS = frozenset({"/api/v1/reload", "/api/v1/restart"})
_log = logger("auth")


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose token it is: a name for the audit trail, and a role."""

    name: str
    role: Role


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


class Access:
    """The tokens that are valid now; raises ConfigError when there should be some and are none.

    Args:
        admin: settings.
        clock: Unix time.
    """

    def __init__(self, admin: Admin, clock: Callable[[], float] = time.time) -> None:
        self._admin = admin
        self._clock = clock
        self._watch = FileWatch([admin.token_file, admin.tokens_file])
        self._single = b""
        self._tokens: dict[str, AdminToken] = {}
        self._load()

    @property
    def required(self) -> bool:
        """Whether a request needs a token."""
        return bool(self._admin.token_file or self._admin.tokens_file)

    def holder(self, secret: str) -> Holder | None:
        """Whose valid token this is."""
        if self._single and hmac.compare_digest(secret.encode("utf-8", "replace"), self._single):
            return Holder("admin", "admin")
        token = recognise(secret, TOKEN_PREFIX, self._tokens)
        if token is None or (token.expires is not None and token.expires.timestamp() <= self._clock()):
            return None
        return Holder(token.id, token.role)

    def renew(self, force: bool = False) -> None:
        """Takes in files that changed; broken ones leave the tokens as they were."""
        if force or self._watch.changed():
            try:
                self._load()
            except ConfigError as error:
                _log.error("the admin tokens known before stay valid", reason=str(error))

    def _load(self) -> None:
        single = read_token(Path(self._admin.token_file)).encode() if self._admin.token_file else b""
        path = self._admin.tokens_file
        tokens = load_tokens(Path(path), "admin.tokens_file") if path else {}
        self._single, self._tokens = single, tokens


def needed(method: str, path: str) -> Role:
    """The lowest role that may do this."""
    if method in _READING:
        return "read"
    return "admin" if path.rstrip("/") in _ADMIN_PATHS else "operate"


class Guard:
    """ASGI middleware that answers 401 or 403 itself, and tells the rest of the application who is asking.

    Without a token only requests whose Host is a loopback name pass: a web page that a browser on this machine shows
    can reach the port under a name of its own (DNS rebinding), but not under ours.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on or refuses it."""
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            headers = MutableHeaders(scope=scope)
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: MutableHeaders) -> JSONResponse | None:
        if not self._access.required:
            return _elsewhere(headers)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        holder = self._access.holder(given.strip()) if scheme.lower() == "bearer" else None
        if holder is None:
            challenge = {"www-authenticate": "Bearer"}
            return JSONResponse({"error": "a valid bearer token is required"}, 401, headers=challenge)
        role = needed(scope["method"], scope["path"])
        if _ROLES.index(holder.role) < _ROLES.index(role):
            _log.warning("refused", who=holder.name, role=holder.role, method=scope["method"], path=scope["path"])
            what = f"token {holder.name!r} has the role {holder.role}; this needs {role}"
            return JSONResponse({"error": what}, 403)
        # The token says who it is; what a client calls itself is only added.
        claimed = headers.get(_WHO, "")[:100]
        headers[_WHO] = f"{holder.name} ({claimed})" if claimed else holder.name
        return None


def _elsewhere(headers: Headers) -> JSONResponse | None:
    host = headers.get("host", "").rpartition("]")
    name = host[0].lstrip("[") if host[0] else host[2].partition(":")[0]
    if is_loopback(name):
        return None
    return JSONResponse({"error": f"host {name!r} is not this machine; set a token to allow it"}, 403)
