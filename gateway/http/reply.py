"""Complete responses that the gateway writes itself."""

import http
from functools import lru_cache

import msgspec

from gateway.errors import Fault

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


def refusal(fault: Fault, request_id: bytes, connection_header: bytes) -> bytes:
    """A response that sends a client away for a second; made once for each fault."""
    whole, head, body = _refusal(fault.status, fault.text)
    if not request_id and not connection_header:
        return whole
    own = b"x-request-id: %b\r\n" % request_id if request_id else b""
    return b"%b%b%b\r\n%b" % (head, own, connection_header, body)


@lru_cache(64)
def _refusal(status: int, text: str) -> tuple[bytes, bytes, bytes]:
    body = error_body(text)
    head = reply(status, body, b"Retry-After: 1\r\n", head_only=True)[:-2]
    return head + b"\r\n" + body, head, body
