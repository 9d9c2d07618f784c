"""JSON Web Tokens, checked against the key set an identity provider publishes (RFC 7519, RFC 7517, RFC 8725)."""

from pathlib import Path
from typing import Any, NamedTuple

import jwt

from gateway.config_security import Jwt
from gateway.errors import ConfigError

# Asymmetric ones only: with a shared secret whoever can check a token can make one (RFC 8725 section 3.2).
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_MAX_FILE = 4 << 20
MAX_TOKEN = 8 << 10


class Claims(NamedTuple):
    """What the gateway takes from a valid token."""

    subject: str
    routes: tuple[str, ...]
    expires: float


class InvalidTokenError(Exception):
    """Why a token is refused; the text repeats nothing of it."""


class TokenChecker:
    """Checks tokens against one key set; raises ConfigError when there is none in the file."""

    def __init__(self, config: Jwt) -> None:
        self._config = config
        path = Path(config.jwks_file)
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE)
            keys = jwt.PyJWKSet.from_json(data.decode()).keys
        except OSError as error:
            raise ConfigError([f"auth.jwt.jwks_file: cannot read {path}: {error.strerror}"]) from error
        except (ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
            raise ConfigError([f"auth.jwt.jwks_file: {path} is not a JSON Web Key Set: {error}"]) from error
        usable = [key for key in keys if key.key_type != "oct" and key.public_key_use in {None, "sig"}]
        self._keys = {key.key_id: key for key in usable}
        if not usable:
            raise ConfigError([f"auth.jwt.jwks_file: {path} holds no public key for signatures"])

    def check(self, token: str) -> Claims:
        """The claims of a valid token; raises InvalidTokenError."""
        config = self._config
        if len(token) > MAX_TOKEN:
            raise InvalidTokenError("the token is too long")
        try:
            named = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(named) if named or len(self._keys) > 1 else next(iter(self._keys.values()))
            if key is None:
                raise InvalidTokenError("the token's signing key is not in the key set")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name] if key.algorithm_name in _ALGORITHMS else [],
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise InvalidTokenError("the token has expired") from None
        except jwt.InvalidAudienceError:
            raise InvalidTokenError("the token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise InvalidTokenError("the token is from another issuer") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise InvalidTokenError("the token is not valid") from None
        return Claims(str(claims["sub"]), _routes(claims.get(config.routes_claim)), float(claims["exp"]))


def _routes(claim: object) -> tuple[str, ...]:
    if isinstance(claim, str):
        return tuple(claim.split())
    if isinstance(claim, list):
        return tuple(name for name in claim if isinstance(name, str))
    return ()
