"""The part of sluice.yaml that says who may talk to the gateway, and how."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Len

from gateway.core.pool import STRICT

File = Annotated[str, Len(0, 1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS of a listener. Files are read again when they change; what is broken then leaves the old ones in use.

    Attributes:
        cert_file: certificate with its chain, PEM.
        key_file: its private key; in `cert_file` when empty.
        client_ca_file: authorities whose certificates clients must show (mTLS); empty asks for none.
        min_version: oldest version of the protocol that is spoken.
        handshake_timeout_s: a client that has not finished its handshake by then is cut off.
        max_handshakes: handshakes under way per worker; beyond it connections wait in the listen backlog.
    """

    __pydantic_config__: ClassVar = STRICT

    cert_file: Annotated[str, Len(1, 1000)]
    key_file: File = ""
    client_ca_file: File = ""
    min_version: Literal["1.2", "1.3"] = "1.2"
    handshake_timeout_s: Annotated[float, Gt(0), Le(60)] = 5.0
    max_handshakes: Annotated[int, Ge(1), Le(10_000)] = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt:
    """Tokens of an identity provider, checked against its published keys.

    Attributes:
        jwks_file: the provider's JSON Web Key Set; read again when it changes.
        audience: required `aud`.
        issuer: required `iss`.
        routes_claim: claim with the routes a token may use: a list or words in a string; `*` means all.
        leeway_s: tolerated difference of clocks.
        rate: requests per second of one subject over all workers; 0 means no limit.
        burst: requests that may come at once; the rate, rounded up, when 0.
    """

    __pydantic_config__: ClassVar = STRICT

    jwks_file: Annotated[str, Len(1, 1000)]
    audience: Annotated[str, Len(1, 300)]
    issuer: Annotated[str, Len(1, 300)]
    routes_claim: Annotated[str, Len(1, 100)] = "routes"
    leeway_s: Annotated[float, Ge(0), Le(600)] = 30.0
    rate: Annotated[float, Ge(0), Le(1_000_000)] = 0.0
    burst: Annotated[int, Ge(0), Le(1_000_000)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Who may use the data plane. With neither set, everyone who reaches the port.

    Attributes:
        keys_file: hashed API keys, kept by `sluice keys`; read again when it changes.
        jwt: tokens that are accepted besides.
    """

    __pydantic_config__: ClassVar = STRICT

    keys_file: File = ""
    jwt: Jwt | None = None

    @property
    def required(self) -> bool:
        """Whether a request needs a credential."""
        return bool(self.keys_file) or self.jwt is not None
