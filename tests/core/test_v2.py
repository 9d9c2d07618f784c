"""Which paths are endpoints of the V2 protocol, and what they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.v2 import GUARDED, INFERENCES, METHODS, Endpoint, parse_target

_PATHS = {
    b"/v2": (Endpoint.SERVER, "", ""),
    b"/v2/": (Endpoint.SERVER, "", ""),
    b"/v2/health/live": (Endpoint.LIVE, "", ""),
    b"/v2/health/ready": (Endpoint.READY, "", ""),
    b"/v2/models/stats": (Endpoint.ALL_STATS, "", ""),
    b"/v2/models/m": (Endpoint.MODEL, "m", ""),
    b"/v2/models/m/": (Endpoint.MODEL, "m", ""),
    b"/v2/models/m/versions/7": (Endpoint.MODEL, "m", "7"),
    b"/v2/models/m/ready": (Endpoint.MODEL_READY, "m", ""),
    b"/v2/models/m/versions/7/config": (Endpoint.CONFIG, "m", "7"),
    b"/v2/models/m/stats": (Endpoint.STATS, "m", ""),
    b"/v2/models/m/infer": (Endpoint.INFER, "m", ""),
    b"/v2/models/m%20n/generate": (Endpoint.GENERATE, "m n", ""),
    b"/v2/models/m/versions/7/generate_stream": (Endpoint.GENERATE_STREAM, "m", "7"),
    b"/v2/models/m/trace/setting": (Endpoint.MODEL_TRACE, "m", ""),
    b"/v2/models/stats/infer": (Endpoint.INFER, "stats", ""),
    b"/v2/repository/index": (Endpoint.INDEX, "", ""),
    b"/v2/repository/models/m/load": (Endpoint.LOAD, "m", ""),
    b"/v2/repository/models/m/unload": (Endpoint.UNLOAD, "m", ""),
    b"/v2/systemsharedmemory/status": (Endpoint.SHARED_MEMORY, "", ""),
    b"/v2/cudasharedmemory/region/r/unregister": (Endpoint.SHARED_MEMORY, "", ""),
    b"/v2/logging": (Endpoint.LOGGING, "", ""),
    b"/v2/trace/setting": (Endpoint.TRACE, "", ""),
}


@pytest.mark.parametrize("path", _PATHS)
@pytest.mark.parametrize("query", [b"", b"?", b"?a=b&c=/v2/models/x"])
def test_known_paths(path: bytes, query: bytes) -> None:
    """Each path of Triton's HTTP API is recognised, whatever query follows it."""
    target = parse_target(path + query)
    assert target is not None
    assert (target.endpoint, target.model, target.version) == _PATHS[path]
    assert (target.path, target.query) == (path, query)


@pytest.mark.parametrize(
    "path",
    [
        *(b"", b"/", b"/v1", b"/v2x", b"/v2/models", b"/v2/models/", b"/v2/models//infer", b"/v2/models/m/infer/x"),
        *(b"/v2/models/m/versions", b"/v2/models/m/versions//infer", b"/v2/health", b"//v2", b"/v2/models/m/INFER"),
        *(b"/v2/repository/models/m", b"/v2/repository/models/m/infer", b"/v2/models/m/trace", b"/metrics", b"v2"),
    ],
)
def test_unknown_paths(path: bytes) -> None:
    """Anything else is no endpoint."""
    assert parse_target(path) is None


def test_every_endpoint_has_methods() -> None:
    """Inferences are POST only, guarded families are named, and reading never takes POST by accident."""
    assert set(METHODS) == set(Endpoint)
    for endpoint in INFERENCES:
        assert METHODS[endpoint] == {b"POST"}
        assert endpoint not in GUARDED
    assert METHODS[Endpoint.MODEL] == {b"GET", b"HEAD"}
    assert set(GUARDED.values()) == {"trace", "repository", "shared_memory", "logging"}


@given(st.binary(max_size=80).map(lambda tail: b"/v2/models/" + tail))
def test_any_bytes(target: bytes) -> None:
    """No path raises, and a version is only ever named together with a model."""
    found = parse_target(target)
    if found is not None and found.version:
        assert found.model
