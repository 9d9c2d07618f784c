"""The few things read from and written into an inference's JSON."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.v2body import SequenceFlags, sequence_of, with_queue_timeout


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"parameters":{"sequence_id":7,"sequence_start":true}}', SequenceFlags("n7", True, False)),
        (b'{"parameters":{"sequence_id":"7","sequence_end":true}}', SequenceFlags("s7", False, True)),
        (
            b'{"sequence_id":18446744073709551615,"text_input":"x"}',
            SequenceFlags("n18446744073709551615", False, False),
        ),
        (b'{"parameters":{"sequence_id":0}}', None),
        (b'{"parameters":{"sequence_id":""}}', None),
        (b'{"parameters":{}}', None),
        (b'{"inputs":[]}', None),
        (b'{"parameters":{"sequence_id":1.5}}', None),
        (b"not JSON", None),
        (b'{"parameters":{"sequence_id":"\xff"}}', None),
        (b'{"parameters":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", None),
        (b"", None),
    ],
)
def test_sequences(body: bytes, expected: SequenceFlags | None) -> None:
    """Numeric and textual ids stay apart, at the top level as under parameters; what is unreadable is no sequence."""
    assert sequence_of(body) == expected


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=5), st.integers(1, 1 << 40))
def test_queue_timeout_changes_nothing_else(parameters: dict[str, int | str], timeout_us: int) -> None:
    """Only the time-out is set, unless the client's own is shorter; all other content stays equal."""
    body = {"inputs": [{"name": "x", "data": [1.5, 2]}], "parameters": parameters}
    changed = msgspec.json.decode(with_queue_timeout(msgspec.json.encode(body), timeout_us))
    own = parameters.get("timeout")
    if not isinstance(own, str):
        expected = own if own is not None and 0 < own <= timeout_us else timeout_us
        assert changed == body | {"parameters": parameters | {"timeout": expected}}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"parameters":5}', b'{"a":"\xff"', b"[" * 100_000])
def test_unreadable_bodies_stay_as_they_are(body: bytes) -> None:
    """Triton will say what is wrong with them."""
    assert with_queue_timeout(body, 1000) == body
