"""Lets in who may come in: an API key or a token in the head, checked once per head and remembered with it."""

import logging
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import errors
from gateway.config_security import Auth
from gateway.core.v2 import Endpoint
from gateway.credentials import KEY_PREFIX, ApiKey, load_keys, recognise
from gateway.dataplane.principal import Principal
from gateway.errors import ConfigError, Fault
from gateway.filewatch import FileWatch
from gateway.http.head import RequestHead
from gateway.rates import Limit, RateTable

if TYPE_CHECKING:
    from gateway.tokens import TokenChecker

_LOG = logging.getLogger(__name__)
OPEN = frozenset({Endpoint.LIVE, Endpoint.READY})
# Where credentials stand. The gateway is whom they are for: they go no further.
CREDENTIAL_FIELDS = frozenset({b"authorization", b"x-api-key", b"proxy-authorization"})
_REMEMBERED = 4096
_NEVER = float("inf")


class Gate:
    """The credentials that are valid now.

    While a file cannot be read at all, nobody it would have let in comes in.

    Args:
        auth: settings.
        rates: the node's rate limits.
        clock: Unix time.
    """

    def __init__(self, auth: Auth, rates: RateTable, clock: Callable[[], float] = time.time) -> None:
        self._auth = auth
        self._rates = rates
        self._clock = clock
        self._watch = FileWatch([auth.keys_file, auth.jwt.jwks_file if auth.jwt else ""])
        self._keys: dict[str, ApiKey] = {}
        self._checker: TokenChecker | None = None
        self._tokens: dict[bytes, Principal] = {}
        self._limits: dict[tuple[str, float, int], Limit] = {}
        self._next_expiry = _NEVER
        self._load()

    def identify(self, head: RequestHead) -> Principal | Fault:
        """Whose request this is, or why it is refused."""
        fields = head.fields
        given = fields.get(b"authorization")
        if given is not None:
            scheme, _, credential = given.partition(b" ")
            if scheme.lower() != b"bearer":
                return errors.UNAUTHORIZED.but("the Authorization header must be: Bearer and an API key or token")
        else:
            credential = fields.get(b"x-api-key", b"")
        secret = credential.strip().decode("latin-1")
        if not secret:
            return errors.UNAUTHORIZED
        principal = self._by_token(secret) if self._is_token(secret) else self._by_key(secret)
        if isinstance(principal, Principal):
            if principal.expires <= self._clock():
                return errors.UNAUTHORIZED.but("the API key or token has expired")
            self._next_expiry = min(self._next_expiry, principal.expires)
        return principal

    def renew(self, force: bool = False) -> bool:
        """Takes in files that changed, once a second; True when remembered decisions are void.

        They are void too when a credential has expired since, whatever the clock did in between.
        """
        if force or self._watch.changed():
            self._load()
            return True
        if self._clock() >= self._next_expiry:
            self._next_expiry = _NEVER
            self._tokens.clear()
            return True
        return False

    def _is_token(self, secret: str) -> bool:
        return self._auth.jwt is not None and not secret.startswith(KEY_PREFIX)

    def _by_key(self, secret: str) -> Principal | Fault:
        key = recognise(secret, KEY_PREFIX, self._keys)
        if key is None:
            return errors.UNAUTHORIZED.but("unknown API key")
        expires = key.expires.timestamp() if key.expires else _NEVER
        return Principal(f"key:{key.id}", key.routes, expires, self._limit(f"key:{key.id}", key.rate, key.burst))

    def _by_token(self, secret: str) -> Principal | Fault:
        # A signature costs more than the whole rest of a request: check each token once.
        digest = sha256(secret.encode("latin-1")).digest()
        principal = self._tokens.get(digest)
        if principal is not None:
            return principal
        from gateway.tokens import InvalidTokenError  # noqa: PLC0415 - without tokens no worker loads it

        jwt = self._auth.jwt
        if self._checker is None or jwt is None:
            return errors.UNAUTHORIZED.but("tokens cannot be checked now")
        try:
            claims = self._checker.check(secret)
        except InvalidTokenError as error:
            return errors.UNAUTHORIZED.but(str(error))
        name = f"token:{claims.subject[:200]}"
        expires = claims.expires + jwt.leeway_s
        principal = Principal(name, claims.routes, expires, self._limit(name, jwt.rate, jwt.burst))
        if len(self._tokens) >= _REMEMBERED:
            self._tokens.clear()
        self._tokens[digest] = principal
        return principal

    def _limit(self, name: str, rate: float, burst: int) -> Limit | None:
        if not rate:
            return None
        limit = self._limits.get((name, rate, burst))
        if limit is None:
            if len(self._limits) >= _REMEMBERED:
                self._limits.clear()
            limit = self._limits[name, rate, burst] = Limit(self._rates, name, rate, burst)
        return limit

    def _load(self) -> None:
        self._tokens.clear()
        auth = self._auth
        try:
            if auth.keys_file:
                self._keys = load_keys(Path(auth.keys_file), "auth.keys_file")
            if auth.jwt is not None:
                from gateway.tokens import TokenChecker  # noqa: PLC0415 - see above

                self._checker = TokenChecker(auth.jwt)
        except ConfigError as error:
            _LOG.error("%s; the credentials known before stay valid", error)
