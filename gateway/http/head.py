"""Reads HTTP/1.1 heads strictly: what is ambiguous is refused, never repaired.

Two gates: a grammar for the whole head (RFC 9112 sections 2-5 without obsolete line folding, bare CR or LF), then
llhttp through httptools with every lenient flag off. On top of both: framing rules (RFC 9112 section 6), one Host,
and no header of ours hidden by `Connection`. Parsing is a pure function of the bytes, so `Heads` remembers recent
results: a keep-alive client that repeats its head costs one dictionary look-up.
"""

import re
from typing import Any

import httptools

from gateway import errors
from gateway.config import Limits
from gateway.errors import Fault

HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
# Headers whose removal by `Connection: <name>` would change how the message is read or who is served.
_PROTECTED = frozenset({b"host", b"content-length", b"content-encoding", b"inference-header-content-length"})
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Possessive quantifiers: a hostile head costs one pass, never backtracking.
_FIELD = rb"(?:" + _TOKEN + rb"+:[\t\x20-\x7e\x80-\xff]*+\r\n)*+"
_REQUEST = re.compile(_TOKEN + rb"+ [\x21-\x7e]+ HTTP/1\.[01]\r\n" + _FIELD + rb"\r\n")
_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?\r\n" + _FIELD + rb"\r\n")
_REQUEST_LINE = re.compile(_TOKEN + rb"+ [\x21-\x7e]+ HTTP/([0-9.]+)\r\n")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%-]*)(?::\d{0,5})?")
_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
_DIGITS = re.compile(rb"[0-9]{1,15}")
_MAX_INT = (1 << 31) - 1
_REMEMBERED = 1024
_REMEMBERED_BYTES = 2048


class RequestHead:
    """One parsed request head.

    Attributes:
        method, target: as sent; an absolute-form target is reduced to its path.
        http11: HTTP/1.1 rather than 1.0.
        keep_alive: whether the client's connection may live on.
        content_length: bytes of body, -1 when there is no Content-Length.
        chunked: whether the body is chunked.
        expects: `Expect: 100-continue` was sent.
        headers: every field but hop-by-hop ones and Host, names as sent.
        fields: values by lower-case name (the first one where a name repeats).
        header_length: value of Inference-Header-Content-Length, -1 when absent.
        request_id: the client's x-request-id when it is well formed, else empty.
        plan: what the data plane decided for this head; it sets and clears it.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "expects",
        "fields",
        "header_length",
        "headers",
        "http11",
        "keep_alive",
        "method",
        "plan",
        "request_id",
        "target",
    )

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.http11 = True
        self.keep_alive = True
        self.content_length = -1
        self.chunked = False
        self.expects = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.fields: dict[bytes, bytes] = {}
        self.header_length = -1
        self.request_id = b""
        self.plan: Any = None

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow the head."""
        return self.chunked or self.content_length > 0


class ResponseHead:
    """One parsed response head.

    Attributes:
        status: HTTP status.
        reason: reason phrase as sent.
        keep_alive: whether the backend's connection may be used again.
        content_length: bytes of body, -1 when there is no Content-Length.
        chunked: whether the body is chunked.
        block: status line and end-to-end fields as bytes, without framing fields and without the final empty line.
        sized: `block` with Content-Length, where there is one.
        fields: values by lower-case name.
    """

    __slots__ = ("block", "chunked", "content_length", "fields", "keep_alive", "reason", "sized", "status")

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.keep_alive = True
        self.content_length = -1
        self.chunked = False
        self.block = b""
        self.sized = b""
        self.fields: dict[bytes, bytes] = {}


class _Collector:
    """Receives httptools' callbacks."""

    __slots__ = ("done", "fields", "reason", "url")

    def __init__(self) -> None:
        self.url = b""
        self.reason = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.done = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.done = True


def _framing(fields: list[tuple[bytes, bytes]], http11: bool) -> tuple[int, bool] | Fault:
    """Content-Length and chunkedness of a message, or why its framing is refused (RFC 9112 section 6.3)."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if codings:
        if lengths:
            return errors.BAD_REQUEST.but("Content-Length and Transfer-Encoding together")
        if not http11:
            return errors.BAD_REQUEST.but("Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            return errors.NOT_IMPLEMENTED
        return -1, True
    if not lengths:
        return -1, False
    if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
        return errors.BAD_REQUEST.but("invalid Content-Length")
    return int(lengths[0]), False


def _hop_by_hop(fields: list[tuple[bytes, bytes]]) -> frozenset[bytes] | Fault:
    """Lower-case names that end at this hop."""
    named = [value for name, value in fields if name == b"connection"]
    if not named:
        return HOP_BY_HOP
    tokens = {token.strip().lower() for value in named for token in value.split(b",")} - {b""}
    if tokens & _PROTECTED or any(token.startswith(b"x-sluice-") for token in tokens):
        return errors.BAD_HEADER.but("Connection names a header that must reach the other side")
    return HOP_BY_HOP | tokens


def _origin_form(target: bytes, host: bytes) -> bytes | Fault:
    """The path of a target; an absolute-form one must agree with Host (RFC 9112 section 3.2.2)."""
    if target.startswith(b"/"):
        return target
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in {b"http", b"https"}:
        return errors.BAD_REQUEST.but("unsupported request target")
    authority, slash, path = rest.partition(b"/")
    if authority.lower() != host.lower():
        return errors.BAD_REQUEST.but("request target and Host disagree")
    return slash + path if slash else b"/"


def parse_request(data: bytes, limits: Limits) -> RequestHead | Fault:
    """Parses a complete request head (up to and including its empty line), or says why it is refused."""
    if not _REQUEST.fullmatch(data):
        line = _REQUEST_LINE.match(data)
        return errors.HTTP_VERSION if line and line[1] not in {b"1.1", b"1.0"} else errors.BAD_REQUEST
    found = _Collector()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # we never upgrade: the field is dropped with the other hop-by-hop ones (RFC 9110 section 7.8)
    except httptools.HttpParserError:
        return errors.BAD_REQUEST
    if not found.done:
        return errors.BAD_REQUEST
    if len(found.url) > limits.max_target_bytes:
        return errors.URI_TOO_LONG
    if len(found.fields) > limits.max_headers:
        return errors.HEADERS_TOO_LARGE.but("too many request header fields")
    head = RequestHead()
    head.http11 = parser.get_http_version() == "1.1"
    head.method = parser.get_method()
    lowered = [(name.lower(), value) for name, value in found.fields]
    framing = _framing(lowered, head.http11)
    if isinstance(framing, Fault):
        return framing
    head.content_length, head.chunked = framing
    if head.content_length > limits.max_body_bytes:
        return errors.BODY_TOO_LARGE
    hop = _hop_by_hop(lowered)
    if isinstance(hop, Fault):
        return hop
    hosts = [value for name, value in lowered if name == b"host"]
    if len(hosts) != 1 and (head.http11 or hosts):
        return errors.BAD_REQUEST.but("exactly one Host header is required")
    if hosts and not _HOST.fullmatch(hosts[0]):
        return errors.BAD_REQUEST.but("invalid Host header")
    target = _origin_form(found.url, hosts[0] if hosts else b"")
    if isinstance(target, Fault):
        return target
    head.target = target
    connection = b",".join(value for name, value in lowered if name == b"connection").lower()
    tokens = {token.strip() for token in connection.split(b",")}
    head.keep_alive = b"close" not in tokens and (head.http11 or b"keep-alive" in tokens)
    for (name, value), (lower, _) in zip(found.fields, lowered, strict=True):
        if lower not in hop and lower != b"host":
            head.headers.append((name, value))
        if lower not in head.fields:
            head.fields[lower] = value
        elif lower in _PROTECTED or lower == b"expect":
            return errors.BAD_HEADER.but(f"header {lower.decode()} appears twice")
    return _semantics(head, limits)


def _semantics(head: RequestHead, limits: Limits) -> RequestHead | Fault:
    """Checks the fields that the gateway itself acts on."""
    if (expect := head.fields.get(b"expect")) is not None:
        if expect.lower() != b"100-continue":
            return errors.EXPECTATION
        head.expects = head.http11 and head.has_body
    if (length := head.fields.get(b"inference-header-content-length")) is not None:
        # Triton 2.70 ends its whole process on a number that is out of range; nothing but a small one may pass.
        if not _DIGITS.fullmatch(length) or int(length) > min(limits.max_body_bytes, _MAX_INT):
            return errors.BAD_V2_HEADER
        head.header_length = int(length)
        plain = b"content-encoding" not in head.fields  # with an encoding it counts bytes before compression
        if plain and 0 <= head.content_length < head.header_length:
            return errors.BAD_V2_HEADER.but("Inference-Header-Content-Length is larger than the body")
    if (request_id := head.fields.get(b"x-request-id")) and _ID.fullmatch(request_id):
        head.request_id = request_id
    return head


def parse_response(data: bytes) -> ResponseHead | Fault:
    """Parses a complete response head as strictly as a request's."""
    if not _RESPONSE.fullmatch(data):
        return errors.UPSTREAM_INVALID
    found = _Collector()
    parser = httptools.HttpResponseParser(found)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return errors.UPSTREAM_INVALID
    except httptools.HttpParserError:
        return errors.UPSTREAM_INVALID
    if not found.done:
        return errors.UPSTREAM_INVALID
    head = ResponseHead()
    http11 = parser.get_http_version() == "1.1"
    head.status = parser.get_status_code()
    head.reason = found.reason
    lowered = [(name.lower(), value) for name, value in found.fields]
    framing = _framing(lowered, http11)
    hop = _hop_by_hop(lowered)
    if isinstance(framing, Fault) or isinstance(hop, Fault):
        return errors.UPSTREAM_INVALID
    head.content_length, head.chunked = framing
    tokens = {t.strip().lower() for name, value in lowered if name == b"connection" for t in value.split(b",")}
    head.keep_alive = b"close" not in tokens and (http11 or b"keep-alive" in tokens)
    lines = [b"HTTP/1.1 %d %s\r\n" % (head.status, head.reason)]
    for (name, value), (lower, _) in zip(found.fields, lowered, strict=True):
        if lower not in hop and lower != b"content-length":
            lines.append(b"%s: %s\r\n" % (name, value))
        head.fields.setdefault(lower, value)
    head.block = b"".join(lines)
    head.sized = head.block
    if head.status == 204 or (head.status == 304 and head.content_length < 0):
        head.content_length, head.chunked = 0, False  # no body, and no length to tell (RFC 9110 section 8.6)
    elif head.content_length >= 0:
        head.sized += b"Content-Length: %d\r\n" % head.content_length
    return head


class Heads:
    """Parses heads and remembers recent ones; bounded in number and size."""

    __slots__ = ("_limits", "requests", "responses")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.requests: dict[bytes, RequestHead] = {}
        self.responses: dict[bytes, ResponseHead] = {}

    def request(self, data: bytes) -> RequestHead | Fault:
        """The parsed form of a complete request head."""
        head = parse_request(data, self._limits)
        if isinstance(head, RequestHead) and len(data) <= _REMEMBERED_BYTES:
            if len(self.requests) >= _REMEMBERED:
                self.requests.clear()
            self.requests[data] = head
        return head

    def response(self, data: bytes) -> ResponseHead | Fault:
        """The parsed form of a complete response head."""
        head = parse_response(data)
        if isinstance(head, ResponseHead) and len(data) <= _REMEMBERED_BYTES:
            if len(self.responses) >= _REMEMBERED:
                self.responses.clear()
            self.responses[data] = head
        return head
