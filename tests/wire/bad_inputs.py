"""Every bad input that a client can send, with the answer it gets: the tests' table and the document's source.

`python -m tests.wire.bad_inputs` writes docs/bad-inputs.md; a test keeps the two alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Limits

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-inputs.md"
# Small enough to be reached quickly; everything else is as shipped.
LIMITS = Limits(head_timeout_s=1.0, body_timeout_s=1.0, idle_timeout_s=2.0, max_body_bytes=2_000_000, linger_s=0.5)

Data = bytes | Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Bad:
    """One input and what becomes of it.

    Attributes:
        name: as it stands in the document.
        data: what is sent (made when needed, where it is large).
        answers: statuses of all responses, in order; empty when the connection just ends.
        closes: the gateway ends the connection afterwards.
        upstream: inferences that reach the backend.
    """

    name: str
    data: Data
    answers: tuple[int, ...]
    closes: bool = True
    upstream: int = 0

    def bytes(self) -> bytes:
        """What is sent."""
        return self.data if isinstance(self.data, bytes) else self.data()


_LINE = b"POST /v2/models/m/infer HTTP/1.1\r\n"
_HOST = b"Host: gateway\r\n"
_NEXT = b"GET /v2/health/live HTTP/1.1\r\nHost: gateway\r\n\r\n"


def _head(*fields: bytes, body: bytes = b"") -> bytes:
    return _LINE + _HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def _sized(*fields: bytes, body: bytes = b"{}") -> bytes:
    return _head(b"Content-Length: %d" % len(body), *fields, body=body)


def _chunked(body: bytes, *fields: bytes) -> bytes:
    return _head(b"Transfer-Encoding: chunked", *fields, body=body)


def _get(target: bytes, method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\n" + _HOST + b"\r\n"


def _post(target: bytes) -> bytes:
    return _sized().replace(b"/v2/models/m/infer", target)


FRAMING = (
    Bad("Content-Length with Transfer-Encoding", _chunked(b"0\r\n\r\n", b"Content-Length: 5"), (400,)),
    Bad("two different lengths", _sized(b"Content-Length: 3"), (400,)),
    Bad("the same length twice", _sized(b"Content-Length: 2"), (400,)),
    *(
        Bad(f"Content-Length: `{value}`", _head(b"Content-Length: " + value.encode(), body=b"x" * 48), (400,))
        for value in ("+10", "0x10", "-48", "18446744073709551648", "4_8", "4 8", "48,48", "48;", "4.8e1", "")
    ),
    Bad("Content-Length in Arabic digits", _head("Content-Length: ٤٨".encode(), body=b"x" * 48), (400,)),
    Bad("a space before the colon", _head(b"Content-Length : 2", body=b"{}"), (400,)),
    Bad("a folded field (obs-fold)", _sized(b"x-a: 1\r\n 2"), (400,)),
    Bad("`Transfer-Encoding: chunked, identity`", _head(b"Transfer-Encoding: chunked, identity"), (400,)),
    Bad("`Transfer-Encoding: gzip, chunked`", _head(b"Transfer-Encoding: gzip, chunked"), (501,)),
    Bad("`Transfer-Encoding: xchunked`", _head(b"Transfer-Encoding: xchunked"), (400,)),
    Bad("Transfer-Encoding twice", _chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), (400,)),
    Bad("Transfer-Encoding in HTTP/1.0", _chunked(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), (400,)),
    Bad("a bare LF behind the request line", _sized().replace(b"1.1\r\n", b"1.1\n"), (400,)),
    Bad("a head of bare LFs only", _sized(body=b"").replace(b"\r\n", b"\n"), (408,)),
    Bad("a bare CR inside a value", _sized(b"x-a: 1\r2"), (400,)),
    Bad("NUL inside a value", _sized(b"x-a: 1\x002"), (400,)),
    Bad("NUL inside a name", _sized(b"x\x00a: 1"), (400,)),
    Bad("a header without colon", _sized(b"x-a"), (400,)),
    Bad("a header without name", _sized(b": 1"), (400,)),
    Bad("a header name in quotes", _sized(b'"x": 1'), (400,)),
    Bad("no Content-Length and no chunks", _head(), (411,), closes=False),
    *(
        Bad(f"chunk size {size!r}", _chunked(size.encode() + b"\r\nhello\r\n0\r\n\r\n"), (400,))
        for size in ("0x2", "-0", "-5", "1zzz", "", " 5", "5 ", "+5", "5\v", "fffffffffffffffff")
    ),
    Bad("a chunk longer than its size", _chunked(b"2\r\nhello\r\n0\r\n\r\n"), (400,)),
    Bad("a chunk shorter than its size", _chunked(b"7\r\nhello\r\n0\r\n\r\n"), (400,)),
    Bad("chunk lines ended by LF", _chunked(b"5\nhello\n0\n\n"), (400,)),
    Bad("a chunk-size line of 1 MB", lambda: _chunked(b"0" * 1_000_000 + b"5\r\nhello\r\n0\r\n\r\n"), (400,)),
    Bad("a chunk extension of 1 MB", lambda: _chunked(b"5;" + b"x" * 1_000_000 + b"\r\nhello\r\n0\r\n\r\n"), (400,)),
    Bad("CR inside a chunk extension", _chunked(b"5;a=\rb\r\nhello\r\n0\r\n\r\n"), (400,)),
    Bad("a trailer Content-Length", _chunked(b"0\r\nContent-Length: 5\r\n\r\n"), (400,)),
    Bad("a trailer Transfer-Encoding", _chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), (400,)),
    Bad("a trailer without colon", _chunked(b"0\r\nnonsense\r\n\r\n"), (400,)),
    Bad("trailers of 1 MB", lambda: _chunked(b"0\r\n" + b"x: y\r\n" * 170_000 + b"\r\n"), (400,)),
    Bad("no last chunk", _chunked(b"5\r\nhello\r\n"), (408,)),
    Bad(
        "a bad chunk in a long body",
        lambda: _chunked(b"20000\r\n" + b"x" * 131072 + b"\r\n0x2\r\nab\r\n"),
        (400,),
        True,
        1,
    ),
    Bad("65,537 chunks of one byte", lambda: _chunked(b"1\r\nx\r\n" * 65_537 + b"0\r\n\r\n"), (200,), False, 1),
    Bad(
        "GET with a body and a request behind it",
        b"GET /v2/health/live HTTP/1.1\r\nHost: gateway\r\nContent-Length: 5\r\n\r\nhello" + _NEXT,
        (200, 200),
        closes=False,
    ),
    Bad("a valid request with garbage behind it", _sized() + b"garbage\r\n\r\n", (200, 400), upstream=1),
    Bad("a body one byte too long", _sized() + b"}" + _NEXT, (200, 400), upstream=1),
    Bad("half of a body", _head(b"Content-Length: 100", body=b"x" * 50), (408,)),
    Bad("half of a head", _LINE + b"Host: gate", (408,)),
    Bad("nothing", b"", ()),
    Bad("empty lines before a request", b"\r\n" * 3 + _sized(), (200,), False, 1),
    Bad("a space before the method", b" " + _sized(), (400,)),
)

HEADS = (
    Bad("`Upgrade: foo`", _sized(b"Connection: upgrade", b"Upgrade: foo"), (200,), False, 1),
    Bad(
        "`Upgrade: h2c`",
        _sized(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x"),
        (200,),
        False,
        1,
    ),
    Bad("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,)),
    Bad("`HTTP/1.32`", _sized().replace(b"HTTP/1.1", b"HTTP/1.32"), (505,)),
    Bad("`HTTP/2.0`", _sized().replace(b"HTTP/1.1", b"HTTP/2.0"), (505,)),
    Bad("`http/1.1`", _sized().replace(b"HTTP/1.1", b"http/1.1"), (400,)),
    Bad("HTTP/0.9", b"GET /v2\r\n\r\n", (400,)),
    Bad("no Host", _sized().replace(_HOST, b""), (400,)),
    Bad("two Hosts", _sized(b"Host: other"), (400,)),
    Bad("a Host with a path", _sized().replace(b"Host: gateway", b"Host: gateway/x"), (400,)),
    Bad("a Host with a user", _sized().replace(b"Host: gateway", b"Host: a@gateway"), (400,)),
    Bad("an absolute target that disagrees with Host", _post(b"http://other/v2/models/m/infer"), (400,)),
    Bad("an absolute target that agrees", _post(b"http://gateway/v2/models/m/infer"), (200,), False, 1),
    Bad("an absolute target of another scheme", _post(b"ftp://gateway/v2/models/m/infer"), (400,)),
    Bad("CONNECT", b"CONNECT gateway:80 HTTP/1.1\r\nHost: gateway\r\n\r\n", (400,)),
    Bad("`OPTIONS *`", b"OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n", (400,)),
    Bad("a method in lower case", _sized().replace(b"POST", b"post"), (400,)),
    Bad("an invented method", _sized().replace(b"POST", b"INFER"), (400,)),
    Bad("GET of an inference", _get(b"/v2/models/m/infer"), (405,), False),
    Bad("DELETE of an inference", _sized().replace(b"POST", b"DELETE"), (405,), False),
    Bad("a space inside the target", _sized().replace(b"/infer", b"/in fer"), (400,)),
    Bad("a control character in the target", _sized().replace(b"/infer", b"/in\x01fer"), (400,)),
    Bad("8-bit characters in the target", _sized().replace(b"/infer", b"/inf\xc3\xa9r"), (400,)),
    Bad("a path of 9 KB", _post(b"/v2/models/" + b"x" * 9000 + b"/infer"), (414,)),
    Bad("a path of 64 KB", _post(b"/v2/models/" + b"x" * 65_536 + b"/infer"), (414,)),
    Bad("101 headers", _sized(*(b"x-%d: 1" % i for i in range(99))), (431,)),
    Bad("a header of 64 KB", _sized(b"x: " + b"y" * 65_536), (431,)),
    Bad("an endless header", lambda: _LINE + _HOST + b"x: " + b"y" * 1_000_000, (431,)),
    Bad("`Expect: 100-continue` and no body", _head(b"Content-Length: 0", b"Expect: 100-continue"), (200,), False, 1),
    Bad("`Expect: 100-continue`, then silence", _head(b"Content-Length: 5", b"Expect: 100-continue"), (408,)),
    Bad(
        "`Expect: 100-continue` for an unknown model",
        _head(b"Content-Length: 5", b"Expect: 100-continue").replace(b"/m/", b"/none/"),
        (404,),
    ),
    Bad("`Expect: 200-ok`", _sized(b"Expect: 200-ok"), (417,)),
    Bad(
        "`Connection: Inference-Header-Content-Length`",
        _sized(b"Connection: Inference-Header-Content-Length", b"Inference-Header-Content-Length: 2"),
        (400,),
    ),
    Bad("`Connection: Content-Length`", _sized(b"Connection: close, content-length"), (400,)),
    Bad("`Connection: Host`", _sized(b"Connection: host"), (400,)),
    Bad("`Connection: x-sluice-variant`", _sized(b"Connection: x-sluice-variant"), (400,)),
    Bad("the first bytes of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n", (400,)),
    Bad("an SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", (400,)),
    Bad("a body above the limit", _head(b"Content-Length: 3000000"), (413,)),
    Bad(
        "chunks above the limit", lambda: _chunked(b"200000\r\n" + b"x" * 2_097_152 + b"\r\n0\r\n\r\n"), (413,), True, 1
    ),
)

PROTOCOL = (
    *(
        Bad(
            f"Inference-Header-Content-Length `{value}` of a body of 2 bytes",
            _sized(b"Inference-Header-Content-Length: " + value.encode()),
            (400,),
        )
        for value in ("3", "-1", "+2", "0x2", "2 2", "99999999999", "2147483648", "")
    ),
    Bad("Inference-Header-Content-Length twice", _sized(*[b"Inference-Header-Content-Length: 2"] * 2), (400,)),
    Bad(
        "Inference-Header-Content-Length above a chunked body",
        _chunked(b"2\r\n{}\r\n0\r\n\r\n", b"Inference-Header-Content-Length: 3"),
        (400,),
    ),
    Bad(
        "the same for a long chunked body",
        lambda: _chunked(b"20000\r\n" + b"x" * 131_072 + b"\r\n0\r\n\r\n", b"Inference-Header-Content-Length: 200000"),
        (400,),
        upstream=1,
    ),
    Bad("Content-Encoding twice", _sized(*[b"Content-Encoding: gzip"] * 2), (400,)),
    *(
        Bad(f"x-sluice-timeout-ms `{value}`", _sized(b"x-sluice-timeout-ms: " + value.encode()), (400,), closes=False)
        for value in ("0", "-1", "1e3", "1.5", "99999999999", "")
    ),
    Bad("an unknown variant", _sized(b"x-sluice-variant: none"), (404,), False),
    Bad("an unknown model", _post(b"/v2/models/none/infer"), (404,), False),
    Bad("an unknown version", _post(b"/v2/models/m/versions/9/infer"), (404,), False),
    Bad("an unknown path", _get(b"/metrics"), (404,), False),
    *(
        Bad(f"the target `{target}`", _post(target.encode()), (404,), False)
        for target in (
            "/v2/models/../models/m/infer",
            "/v2/models/%2e%2e/infer",
            "/v2/models/..%2F..%2Fetc/infer",
            "/v2/models/m%2Finfer/infer",
            "/v2/models/m%00/infer",
            "/v2/models/m%zz/infer",
            "/v2/models//infer",
            "//v2/models/m/infer",
            "/v2/models/m/infer/../infer",
            "/v2/models/m;x/infer",
            "/V2/models/m/infer",
        )
    ),
    Bad("a model name of 300 bytes", _post(b"/v2/models/" + b"m" * 300 + b"/infer"), (404,), False),
    *(
        Bad(f"`{method} {target}`, not opened", _get(target.encode(), method.encode()), (403,), False)
        for method, target in (
            ("GET", "/v2/logging"),
            ("GET", "/v2/trace/setting"),
            ("GET", "/v2/models/m/trace/setting"),
            ("GET", "/v2/systemsharedmemory/status"),
            ("POST", "/v2/cudasharedmemory/region/x/register"),
            ("POST", "/v2/repository/index"),
            ("POST", "/v2/repository/models/m/unload"),
        )
    ),
    Bad(
        "HEAD of an unknown model, and a request behind it",
        _get(b"/v2/models/none", b"HEAD") + _NEXT,
        (404, 200),
        False,
    ),
    Bad("HEAD of a closed endpoint, and a request behind it", _get(b"/v2/logging", b"HEAD") + _NEXT, (403, 200), False),
    Bad(
        "HEAD of an inference, and a request behind it", _get(b"/v2/models/m/infer", b"HEAD") + _NEXT, (405, 200), False
    ),
)

GROUPS = {
    "Framing (RFC 9112)": FRAMING,
    "Request heads and limits": HEADS,
    "The V2 protocol and the gateway's own headers": PROTOCOL,
}
CASES = {case.name: case for cases in GROUPS.values() for case in cases}


def _answer(case: Bad) -> str:
    statuses = ", then ".join(map(str, case.answers)) or "no answer"
    return f"{statuses}{', connection closed' if case.closes else ''}"


_INTRODUCTION = f"""\
# Bad inputs and faults, each with its answer

Written by `python -m tests.wire.bad_inputs` from the tables that `tests/wire` holds against a real worker process;
`pytest tests/wire -k 'bad_input or fault'` tries every row. After each row the next client is served, nothing more
reached a backend than is said here, and memory and descriptors are back where they were.

The limits behind the answers are those of `sluice.yaml`, with shorter ones so that they are reached quickly:
{LIMITS.head_timeout_s:g} s for a head, {LIMITS.body_timeout_s:g} s for a body, {LIMITS.max_body_bytes:,} bytes of body.
"""


def document() -> Iterator[str]:
    """The lines of docs/bad-inputs.md."""
    from tests.wire import backend_faults, other_faults, v2_bodies

    yield from _INTRODUCTION.splitlines()
    for title, cases in GROUPS.items():
        yield from ("", f"## {title}", "", "| input | answer | requests that reach a backend |", "|---|---|---|")
        for case in cases:
            yield f"| {case.name} | {_answer(case)} | {case.upstream} |"
    yield from ("", "## Inference bodies", "", "Passed on to a real Triton (2.51.0), whose answer the client gets.", "")
    yield from (
        "Its 500 for a malformed request counts as the client's error here.",
        "",
        "| body | answer |",
        "|---|---|",
    )
    for name, body in v2_bodies.BODIES.items():
        yield f"| {name} | {body.status} |"
    yield from ("", "## Backends", "", "Without retries (`retries: 0`), so that the fault itself is seen.", "")
    yield from ("| the backend's answer | what the client gets |", "|---|---|")
    for name, (_, status) in backend_faults.BEFORE.items():
        yield f"| {name} | {status} |"
    for name in backend_faults.AFTER:
        yield f"| {name} | the answer so far, then the connection is cut |"
    for name in backend_faults.ODD:
        yield f"| {name} | the whole answer |"
    yield from ("", "## Clients, processes, the machine and operators", "", "| fault | what happens | shown by |")
    yield "|---|---|---|"
    for name, (what, shown) in other_faults.OTHERS.items():
        yield f"| {name} | {what} | `tests/{shown}` |"


if __name__ == "__main__":
    DOCUMENT.write_text("\n".join(document()) + "\n", encoding="utf-8")
