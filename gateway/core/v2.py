"""The V2 inference protocol as Triton speaks it over HTTP: which path means what, and with which methods.

Source: Triton's http_server.cc and the protocol extensions (sequence, statistics, model repository, shared memory,
trace, logging, generate).
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from urllib.parse import unquote_to_bytes


class Endpoint(Enum):
    """What a request asks for, apart from which model."""

    SERVER = auto()
    LIVE = auto()
    READY = auto()
    MODEL = auto()
    MODEL_READY = auto()
    CONFIG = auto()
    STATS = auto()
    ALL_STATS = auto()
    INFER = auto()
    GENERATE = auto()
    GENERATE_STREAM = auto()
    MODEL_TRACE = auto()
    INDEX = auto()
    LOAD = auto()
    UNLOAD = auto()
    SHARED_MEMORY = auto()
    LOGGING = auto()
    TRACE = auto()


# Endpoints that stay closed on the data plane until a route's owner opens their family (Route.expose).
GUARDED = {
    Endpoint.MODEL_TRACE: "trace",
    Endpoint.TRACE: "trace",
    Endpoint.INDEX: "repository",
    Endpoint.LOAD: "repository",
    Endpoint.UNLOAD: "repository",
    Endpoint.SHARED_MEMORY: "shared_memory",
    Endpoint.LOGGING: "logging",
}
INFERENCES = frozenset({Endpoint.INFER, Endpoint.GENERATE, Endpoint.GENERATE_STREAM})

_READ = frozenset({b"GET", b"HEAD"})
_WRITE = frozenset({b"POST"})
_BOTH = _READ | _WRITE
METHODS: dict[Endpoint, frozenset[bytes]] = {
    endpoint: _WRITE
    if endpoint in INFERENCES or endpoint in {Endpoint.INDEX, Endpoint.LOAD, Endpoint.UNLOAD}
    else _BOTH
    if endpoint in {Endpoint.SHARED_MEMORY, Endpoint.LOGGING, Endpoint.TRACE, Endpoint.MODEL_TRACE}
    else _READ
    for endpoint in Endpoint
}

_FIXED = {
    b"/v2": Endpoint.SERVER,
    b"/v2/": Endpoint.SERVER,
    b"/v2/health/live": Endpoint.LIVE,
    b"/v2/health/ready": Endpoint.READY,
    b"/v2/models/stats": Endpoint.ALL_STATS,
    b"/v2/repository/index": Endpoint.INDEX,
    b"/v2/logging": Endpoint.LOGGING,
    b"/v2/trace/setting": Endpoint.TRACE,
}
_ACTIONS = {
    None: Endpoint.MODEL,
    b"ready": Endpoint.MODEL_READY,
    b"config": Endpoint.CONFIG,
    b"stats": Endpoint.STATS,
    b"infer": Endpoint.INFER,
    b"generate": Endpoint.GENERATE,
    b"generate_stream": Endpoint.GENERATE_STREAM,
    b"trace/setting": Endpoint.MODEL_TRACE,
    b"load": Endpoint.LOAD,
    b"unload": Endpoint.UNLOAD,
}
_MODEL = re.compile(
    rb"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|config|stats|infer|generate|generate_stream|trace/setting))?/?"
)
_REPOSITORY = re.compile(rb"/v2/repository/models/([^/]+)/(load|unload)")
_SHARED_MEMORY = re.compile(rb"/v2/(?:system|cuda)sharedmemory(?:/region/[^/]+)?/(?:status|register|unregister)")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request's path names.

    Attributes:
        endpoint: what is asked for.
        model: percent-decoded model name, which on the gateway is a route's name; empty where none is named.
        version: percent-decoded version, empty when the client leaves it open.
        path: the path as it was sent, without the query.
        query: the query with its leading `?`, or empty.
    """

    endpoint: Endpoint
    model: str
    version: str
    path: bytes
    query: bytes


def _text(raw: bytes | None) -> str:
    return unquote_to_bytes(raw).decode("utf-8", "replace") if raw else ""


@lru_cache(1024)
def parse_target(target: bytes) -> Target | None:
    """What an origin-form request target asks for; None when it is no endpoint of the protocol."""
    path, mark, query = target.partition(b"?")
    rest = mark + query
    if endpoint := _FIXED.get(path):
        return Target(endpoint, "", "", path, rest)
    if found := _MODEL.fullmatch(path):
        model, version, action = found.groups()
        return Target(_ACTIONS[action], _text(model), _text(version), path, rest)
    if found := _REPOSITORY.fullmatch(path):
        return Target(_ACTIONS[found[2]], _text(found[1]), "", path, rest)
    if _SHARED_MEMORY.fullmatch(path):
        return Target(Endpoint.SHARED_MEMORY, "", "", path, rest)
    return None
