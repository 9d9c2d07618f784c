"""Paths taken out of error texts, and queues read from Triton's metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.load import pending_by_model
from gateway.core.scrub import without_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"failed to load '/models/digits/3/model.onnx'", b"failed to load '[path]'"),
        (b"in /usr/lib/python3/x.py, line 3", b"in [path], line 3"),
        (b'{"error":"/v2/models/a/infer is unknown"}', b'{"error":"/v2/models/a/infer is unknown"}'),
        (b"rate in requests/s and n/a", b"rate in requests/s and n/a"),
        (b"http://host:80/a/b", b"http://host:80/a/b"),
        (b"1/2/3", b"1/2/3"),
    ],
)
def test_only_file_paths_are_hidden(text: bytes, shown: bytes) -> None:
    """Absolute paths of several parts go; the protocol's paths, fractions and addresses stay."""
    assert without_paths(text) == shown


@given(st.binary(max_size=300))
def test_scrubbing_is_idempotent_and_total(text: bytes) -> None:
    """Any bytes can be scrubbed, and a second time changes nothing."""
    once = without_paths(text)
    assert without_paths(once) == once


METRICS = b"""# HELP nv_inference_pending_request_count Instantaneous number of pending requests per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="digits",version="1"} 3
nv_inference_pending_request_count{model="digits",version="2"} 4
nv_inference_pending_request_count{model="minilm",version="1"} 0.000000
nv_inference_count{model="digits",version="1"} 99
"""


def test_pending_requests_are_added_up_over_versions() -> None:
    """One number per model; other families do not count."""
    assert pending_by_model(METRICS) == {"digits": 7, "minilm": 0}


@given(st.binary(max_size=300))
def test_anything_else_is_no_metrics(text: bytes) -> None:
    """Bytes that are no metrics give nothing, and no error."""
    assert all(isinstance(value, int) for value in pending_by_model(text).values())
