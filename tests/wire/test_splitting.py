"""How bytes are cut into segments changes nothing: any split of valid traffic gives what the whole gives."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import Limits
from tests.wire.bad_inputs import CASES, LIMITS
from tests.wire.memory import cut, receive, serve

_LIMITS = Limits(stream_above_bytes=200, max_body_bytes=5000)
_cuts = st.lists(st.integers(0, 6000), max_size=30)
_token = st.text("abcdefgXYZ019-_", min_size=1, max_size=12)
_value = st.text("abc xyz,;=\"'\t\xe9", max_size=40).map(lambda text: text.strip(" \t"))


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, tuple[bytes, bytes, bytes]]:
    """One valid request as bytes, and what it means."""
    method = draw(st.sampled_from([b"POST", b"GET", b"HEAD", b"PUT"]))
    target = draw(st.sampled_from([b"/", b"/v2/models/m/infer", b"/a?b=c%20d", b"http://host/x"]))
    body = draw(st.binary(max_size=600))
    fields = [b"Host: host"]
    fields += [
        f"x-{name}: {value}".encode("latin-1") for name, value in draw(st.lists(st.tuples(_token, _value), max_size=4))
    ]
    if draw(st.booleans()) or method == b"HEAD":
        framed = body
        if body or draw(st.booleans()):
            fields.append(b"Content-Length: %d" % len(body))
    else:
        fields.append(b"Transfer-Encoding: chunked")
        sizes = draw(st.lists(st.integers(1, 300), max_size=20))
        framed, at = b"", 0
        for size in [*sizes, 1 << 20]:
            piece = body[at : at + size]
            at += len(piece)
            if piece:
                framed += b"%x%b\r\n%b\r\n" % (len(piece), draw(st.sampled_from([b"", b";a=b", b";x"])), piece)
        framed += b"0\r\n" + draw(st.sampled_from([b"", b"x-t: 1\r\n"])) + b"\r\n"
    order = draw(st.permutations(fields))
    head = method + b" " + target + b" HTTP/1.1\r\n" + b"".join(field + b"\r\n" for field in order) + b"\r\n"
    return head + framed, (method, b"/x" if target.startswith(b"http") else target, body)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests(), min_size=1, max_size=4), _cuts, st.booleans())
def test_requests_may_be_cut_anywhere(
    sent: list[tuple[bytes, tuple[bytes, bytes, bytes]]], places: list[int], at_once: bool
) -> None:
    """Pipelined requests arrive as what they mean, in order, wherever they are cut and whenever they are answered."""
    data = b"".join(raw for raw, _ in sent)
    whole = serve([data], _LIMITS)
    assert whole.requests == tuple(meaning for _, meaning in sent)
    assert not whole.refused
    assert serve(cut(data, places), _LIMITS, at_once) == whole


def test_one_byte_at_a_time() -> None:
    """The extreme case, for each bad input that needs no clock and is not huge, gives the same answers as the whole."""
    for case in CASES.values():
        data = case.bytes()
        if len(data) > 20_000:
            continue
        whole = serve([data], LIMITS)
        single = serve([data[i : i + 1] for i in range(len(data))], LIMITS)
        assert (single.requests, single.refused, single.answers) == (whole.requests, whole.refused, whole.answers), case


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """One valid response as bytes, its status and its body."""
    status = draw(st.sampled_from([200, 201, 400, 404, 500, 503]))
    body = draw(st.binary(max_size=600))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    fields = [f"x-{name}: {value}".encode("latin-1") for name, value in draw(st.lists(st.tuples(_token, _value)))][:4]
    framed = body
    if framing == "length":
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        at, framed = 0, b""
        for size in [*draw(st.lists(st.integers(1, 300), max_size=20)), 1 << 20]:
            piece = body[at : at + size]
            at += len(piece)
            if piece:
                framed += b"%x\r\n%b\r\n" % (len(piece), piece)
        framed += b"0\r\n\r\n"
    else:
        fields.append(b"Connection: close")
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"]))
    head = b"HTTP/1.1 %d Some Reason\r\n%b\r\n" % (status, b"".join(field + b"\r\n" for field in fields))
    return interim * draw(st.integers(0, 2)) + head + framed, status, body


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(responses(), _cuts)
def test_responses_may_be_cut_anywhere(sent: tuple[bytes, int, bytes], places: list[int]) -> None:
    """A backend's answer arrives as what it means wherever it is cut, and leaves its connection equally usable."""
    data, status, body = sent
    whole = receive([data])
    assert (whole.status, bytes(whole.body), whole.ended) == (status, body, "whole")
    assert receive(cut(data, places)) == whole


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(responses(), st.floats(0, 1, exclude_max=True), _cuts)
def test_cut_off_responses_never_look_whole(sent: tuple[bytes, int, bytes], share: float, places: list[int]) -> None:
    """An answer that ends early is a failure, unless only the connection's end marks its own."""
    data, _, body = sent
    part = data[: int(len(data) * share)]
    found = receive(cut(part, places))
    if found.ended == "whole":
        assert b"Connection: close" in data
        assert body.startswith(bytes(found.body))
    assert not found.released


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(responses(), st.binary(min_size=1, max_size=50), _cuts)
def test_surplus_bytes_end_a_backend_connection(
    sent: tuple[bytes, int, bytes], surplus: bytes, places: list[int]
) -> None:
    """Bytes behind an answer never reach anybody, and the connection is not used again."""
    data, status, body = sent
    if b"Connection: close" in data:
        return
    found = receive(cut(data + surplus, places))
    assert (found.status, bytes(found.body), found.ended) == (status, body, "whole")
    assert found.aborted
