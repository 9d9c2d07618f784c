"""Plain HTTP to this machine, for control and for looking; it costs next to no time beside a load."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from loadtest.errors import BrokenRunError


def fetch(url: str, method: str = "GET", within_s: float = 10.0) -> tuple[int, bytes]:
    """Status and body; status 0 when nobody answers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=within_s)
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def fetch_json(url: str) -> Any:
    """A decoded answer.

    Raises:
        BrokenRunError: there is none with status 200.
    """
    status, body = fetch(url)
    if status != http.client.OK:
        raise BrokenRunError(f"{urlsplit(url).path} answers {status or 'nothing'} {body[:200]!r}")
    return json.loads(body)
