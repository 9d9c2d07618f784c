"""Everything that can go wrong, sorted by who is to blame.

On the request path a failure is a value (`Fault`), never an exception: one table gives its HTTP status, its blame and
its text. Around it (configuration, store, commands) failures are exceptions whose class decides the exit code.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Blame(StrEnum):
    """Who caused a failure, which decides whether it counts against a variant."""

    CLIENT = "client"
    OVERLOAD = "overload"
    UPSTREAM = "upstream"
    CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way a request can fail inside the gateway.

    Attributes:
        code: stable identifier, used as a metric label and in logs.
        status: HTTP status of the answer.
        blame: who caused it.
        text: message for the `{"error": ...}` body that a Triton client expects.
    """

    code: str
    status: int
    blame: Blame
    text: str

    def but(self, text: str) -> "Fault":
        """The same fault with a more exact text."""
        return Fault(self.code, self.status, self.blame, text)


BAD_REQUEST = Fault("bad_request", 400, Blame.CLIENT, "malformed HTTP request")
BAD_HEADER = Fault("bad_header", 400, Blame.CLIENT, "malformed header")
BAD_V2_HEADER = Fault("bad_v2_header", 400, Blame.CLIENT, "invalid Inference-Header-Content-Length")
BAD_BODY = Fault("bad_body", 400, Blame.CLIENT, "malformed request body")
BAD_TIMEOUT = Fault("bad_timeout", 400, Blame.CLIENT, "x-sluice-timeout-ms must be a positive whole number")
NO_SEQUENCE = Fault("no_sequence", 400, Blame.CLIENT, "no such sequence: it was never started here or has timed out")
UNAUTHORIZED = Fault("unauthorized", 401, Blame.CLIENT, "an API key or token is required")
FORBIDDEN_ROUTE = Fault("forbidden_route", 403, Blame.CLIENT, "this API key or token does not cover the model")
FORBIDDEN = Fault("forbidden", 403, Blame.CLIENT, "this endpoint is not enabled on the gateway")
UNKNOWN_ROUTE = Fault("unknown_route", 404, Blame.CLIENT, "unknown model")
UNKNOWN_VERSION = Fault("unknown_version", 404, Blame.CLIENT, "unknown model version")
UNKNOWN_VARIANT = Fault("unknown_variant", 404, Blame.CLIENT, "unknown variant")
UNKNOWN_PATH = Fault("unknown_path", 404, Blame.CLIENT, "not found")
METHOD = Fault("method", 405, Blame.CLIENT, "method not allowed")
CLIENT_SLOW = Fault("client_slow", 408, Blame.CLIENT, "timed out waiting for the request")
LENGTH_REQUIRED = Fault("length_required", 411, Blame.CLIENT, "a request body needs Content-Length or chunked encoding")
BODY_TOO_LARGE = Fault("body_too_large", 413, Blame.CLIENT, "request body too large")
URI_TOO_LONG = Fault("uri_too_long", 414, Blame.CLIENT, "request target too long")
RATE_LIMITED = Fault("rate_limited", 429, Blame.CLIENT, "too many requests for this API key or token")
EXPECTATION = Fault("expectation", 417, Blame.CLIENT, "unsupported Expect header")
HEADERS_TOO_LARGE = Fault("headers_too_large", 431, Blame.CLIENT, "request header fields too large")
NOT_IMPLEMENTED = Fault("not_implemented", 501, Blame.CLIENT, "transfer coding not implemented")
HTTP_VERSION = Fault("http_version", 505, Blame.CLIENT, "HTTP version not supported")
SHED_ROUTE = Fault("shed_route", 503, Blame.OVERLOAD, "too many requests in flight on this route")
SHED_BACKEND = Fault("shed_backend", 503, Blame.OVERLOAD, "too many requests in flight on every backend")
SHED_WORKER = Fault("shed_worker", 503, Blame.OVERLOAD, "the gateway is at its limit")
SHED_MEMORY = Fault("shed_memory", 503, Blame.OVERLOAD, "the gateway's buffers are full")
DRAINING = Fault("draining", 503, Blame.OVERLOAD, "the gateway is shutting down")
NO_TABLE = Fault("no_table", 503, Blame.UPSTREAM, "the gateway has not been told its routes yet")
NO_BACKEND = Fault("no_backend", 503, Blame.UPSTREAM, "no backend is ready for this model")
SEQUENCE_LOST = Fault("sequence_lost", 503, Blame.UPSTREAM, "the replica that held this sequence is gone")
CONNECT_FAILED = Fault("connect_failed", 503, Blame.UPSTREAM, "could not connect to the backend")
UPSTREAM_CLOSED = Fault("upstream_closed", 502, Blame.UPSTREAM, "the backend closed the connection before answering")
UPSTREAM_INVALID = Fault("upstream_invalid", 502, Blame.UPSTREAM, "the backend's answer is not valid HTTP")
DEADLINE = Fault("deadline", 504, Blame.UPSTREAM, "deadline exceeded")


class ExitCode(IntEnum):
    """Exit codes of every `sluice` command; 2 is typer's own for wrong usage."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    RESOURCE = 4
    STORE = 5
    UNREACHABLE = 6
    REJECTED = 7
    OBJECTIVES_MISSED = 8


class SluiceError(Exception):
    """Base of all errors that a command reports as one message and an exit code."""

    exit_code = ExitCode.FAILED


class ConfigError(SluiceError):
    """A configuration file or value is wrong; `problems` has one line each, naming what and where."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ResourceError(SluiceError):
    """Something the machine should give is missing: a port in use, a library, a file, a descriptor."""

    exit_code = ExitCode.RESOURCE


class StoreError(SluiceError):
    """The store is locked, full, corrupt or of a newer version; the text says what to do."""

    exit_code = ExitCode.STORE


class UnreachableError(SluiceError):
    """A server that should answer does not."""

    exit_code = ExitCode.UNREACHABLE


class RejectedError(SluiceError):
    """The request was understood and refused (a rollout already runs, a generation does not exist)."""

    exit_code = ExitCode.REJECTED
