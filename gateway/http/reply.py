"""Complete responses that the gateway writes itself."""

import http

import msgspec

_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
JSON = b"Content-Type: application/json\r\n"


def error_body(text: str) -> bytes:
    """The error shape that every Triton client reads."""
    return msgspec.json.encode({"error": text})


def reply(status: int, body: bytes, extra: bytes, head_only: bool = False, content: bytes = JSON) -> bytes:
    """One response with Content-Length; `extra` and `content` are complete field lines."""
    head = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n%b\r\n" % (
        status,
        _REASONS.get(status, "Unknown").encode(),
        content if body else b"",
        len(body),
        extra,
    )
    return head if head_only else head + body
