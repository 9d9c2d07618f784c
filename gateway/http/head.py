"""Reads HTTP/1.1 heads strictly: what is ambiguous is refused, never repaired.

Two gates: a grammar for the whole head (RFC 9112 sections 2-5 without obsolete line folding, bare CR or LF), then
llhttp through httptools with every lenient flag off. On top of both: framing rules (RFC 9112 section 6), one Host,
and no header of ours hidden by `Connection`. Parsing is a pure function of the bytes, so `Heads` remembers recent
results: a keep-alive client that repeats its head costs one dictionary look-up. Heads that differ only in the ids of a
request and its trace share what is remembered.
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
_SINGLE = _PROTECTED | {b"expect"}
_DROPPED = HOP_BY_HOP | {b"host"}
_NOTHING: frozenset[bytes] = frozenset()
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Possessive quantifiers: a hostile head costs one pass, never backtracking.
_FIELD = rb"(?:" + _TOKEN + rb"+:[\t\x20-\x7e\x80-\xff]*+\r\n)*+"
_REQUEST = re.compile(_TOKEN + rb"+ [\x21-\x7e]+ HTTP/1\.[01]\r\n" + _FIELD + rb"\r\n")
_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?\r\n" + _FIELD + rb"\r\n")
_REQUEST_LINE = re.compile(_TOKEN + rb"+ [\x21-\x7e]+ HTTP/([0-9.]+)\r\n")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%-]*)(?::\d{0,5})?")
_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
_DIGITS = re.compile(rb"[0-9]{1,15}")
# Fields that differ from request to request while the rest of a client's head stays the same.
VARYING = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
_VARYING = re.compile(rb"\r\n(?i:(x-request-id|traceparent|tracestate)): ([\x21-\x7e]++)(?=\r\n)")
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
        count: fields as sent.
        shared: the remembered head that this one differs from in `VARYING` fields only; None where it stands alone.
        passing: those of its fields that are not in `headers` and go further with it, as lines.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "count",
        "expects",
        "fields",
        "header_length",
        "headers",
        "http11",
        "keep_alive",
        "method",
        "passing",
        "plan",
        "request_id",
        "shared",
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
        self.count = 0
        self.shared: RequestHead | None = None
        self.passing = b""

    def varied(self, varying: dict[bytes, bytes]) -> "RequestHead":
        """The same head with `VARYING` fields that it lacks, names in lower case."""
        head = RequestHead()
        head.method, head.target, head.http11, head.keep_alive = self.method, self.target, self.http11, self.keep_alive
        head.content_length, head.chunked, head.expects = self.content_length, self.chunked, self.expects
        head.headers, head.header_length, head.request_id = self.headers, self.header_length, self.request_id
        head.fields = self.fields | varying
        head.count = self.count + len(varying)
        head.shared = self
        for name, value in varying.items():
            if name != b"x-request-id":
                head.passing += b"%b: %b\r\n" % (name, value)
            elif _ID.fullmatch(value):
                head.request_id = value
        return head

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


def _framing(fields: dict[bytes, bytes], repeated: frozenset[bytes], http11: bool) -> tuple[int, bool] | Fault:
    """Content-Length and chunkedness of a message, or why its framing is refused (RFC 9112 section 6.3)."""
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            return errors.BAD_REQUEST.but("Content-Length and Transfer-Encoding together")
        if not http11:
            return errors.BAD_REQUEST.but("Transfer-Encoding in HTTP/1.0")
        if b"transfer-encoding" in repeated or coding.lower() != b"chunked":
            return errors.NOT_IMPLEMENTED
        return -1, True
    if length is None:
        return -1, False
    if b"content-length" in repeated or not _DIGITS.fullmatch(length):
        return errors.BAD_REQUEST.but("invalid Content-Length")
    return int(length), False


def _index(found: list[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], frozenset[bytes], frozenset[bytes]]:
    """First values by lower-case name, names that repeat, and the tokens of all Connection fields."""
    fields: dict[bytes, bytes] = {}
    repeated: list[bytes] = []
    tokens = _NOTHING
    for name, value in found:
        lower = name.lower()
        if lower in fields:
            repeated.append(lower)
        else:
            fields[lower] = value
        if lower == b"connection":
            tokens |= {token.strip().lower() for token in value.split(b",")} - {b""}
    return fields, frozenset(repeated) if repeated else _NOTHING, tokens


def _ends_here(tokens: frozenset[bytes]) -> frozenset[bytes] | Fault:
    """Lower-case names of fields that end at this hop, given the tokens of Connection."""
    if not tokens:
        return HOP_BY_HOP
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
    head.count = len(found.fields)
    head.fields, repeated, tokens = _index(found.fields)
    framing = _framing(head.fields, repeated, head.http11)
    if isinstance(framing, Fault):
        return framing
    head.content_length, head.chunked = framing
    if head.content_length > limits.max_body_bytes:
        return errors.BODY_TOO_LARGE
    hop = _ends_here(tokens)
    if isinstance(hop, Fault):
        return hop
    host = head.fields.get(b"host")
    if b"host" in repeated or (host is None and head.http11):
        return errors.BAD_REQUEST.but("exactly one Host header is required")
    if host is not None and not _HOST.fullmatch(host):
        return errors.BAD_REQUEST.but("invalid Host header")
    target = _origin_form(found.url, host or b"")
    if isinstance(target, Fault):
        return target
    head.target = target
    head.keep_alive = b"close" not in tokens and (head.http11 or b"keep-alive" in tokens)
    if repeated & _SINGLE:
        return errors.BAD_HEADER.but(f"header {min(repeated & _SINGLE).decode()} appears twice")
    dropped = _DROPPED if hop is HOP_BY_HOP else hop | {b"host"}
    head.headers = [(name, value) for name, value in found.fields if name.lower() not in dropped]
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
    head.fields, repeated, tokens = _index(found.fields)
    framing = _framing(head.fields, repeated, http11)
    hop = _ends_here(tokens)
    if isinstance(framing, Fault) or isinstance(hop, Fault):
        return errors.UPSTREAM_INVALID
    head.content_length, head.chunked = framing
    head.keep_alive = b"close" not in tokens and (http11 or b"keep-alive" in tokens)
    lines = [b"HTTP/1.1 %d %s\r\n" % (head.status, head.reason)]
    for name, value in found.fields:
        lower = name.lower()
        if lower not in hop and lower != b"content-length":
            lines.append(b"%s: %s\r\n" % (name, value))
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
        return self._varied(data) or self._request(data)

    def _request(self, data: bytes) -> RequestHead | Fault:
        head = parse_request(data, self._limits)
        if isinstance(head, RequestHead) and len(data) <= _REMEMBERED_BYTES:
            if len(self.requests) >= _REMEMBERED:
                self.requests.clear()
            self.requests[data] = head
        return head

    def _varied(self, data: bytes) -> RequestHead | None:
        """A head whose ids were cut out before the rest was looked up; None where it must be parsed as it is."""
        found: list[tuple[bytes, bytes]] = _VARYING.findall(data)
        if not found:
            return None
        rest = _VARYING.sub(b"", data)
        shared = self.requests.get(rest) or self._request(rest)
        varying = {name.lower(): value for name, value in found}
        if (
            isinstance(shared, Fault)
            or len(varying) < len(found)
            or shared.count + len(found) > self._limits.max_headers
            or b"connection" in shared.fields  # it might name one of them
            or varying.keys() & shared.fields.keys()
        ):
            return None
        return shared.varied(varying)

    def response(self, data: bytes) -> ResponseHead | Fault:
        """The parsed form of a complete response head."""
        head = parse_response(data)
        if isinstance(head, ResponseHead) and len(data) <= _REMEMBERED_BYTES:
            if len(self.responses) >= _REMEMBERED:
                self.responses.clear()
            self.responses[data] = head
        return head
