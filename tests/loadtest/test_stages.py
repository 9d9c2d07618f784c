"""Reading a profile."""

import inspect

import pytest

from gateway.http.client import UpstreamConnection
from gateway.http.connection import ClientConnection
from loadtest.overhead.stages import shares

_START = "run (gateway/app.py:37);run (/opt/sluice/gateway/dataplane/worker.py:167)"


def _writes(method: object) -> int:
    """The line on which a method writes to its transport."""
    lines, first = inspect.getsourcelines(method)  # type: ignore[arg-type]
    return first + next(i for i, line in enumerate(lines) if "transport.write(" in line)


def test_samples_are_added_up_by_stage() -> None:
    """Writes are told apart by who made them, Python by file, the rest is the loop's."""
    upstream, client = _writes(UpstreamConnection.write), _writes(ClientConnection.write)
    lines = [
        f"{_START};start (gateway/dataplane/exchange.py:1);write (/opt/sluice/gateway/http/client.py:{upstream}) 50",
        f"{_START};write (gateway/http/connection.py:{client}) 20",
        f"{_START} 20",
        f"{_START};data_received (gateway/http/client.py:1) 6",
        f"{_START};start (gateway/dataplane/exchange.py:9) 4",
    ]
    assert shares(lines) == [
        ("event loop and kernel: write to the backend", 0.5),
        ("event loop and kernel: write to the client", 0.2),
        ("event loop and kernel: wait, read", 0.2),
        ("Python: http/client.py", 0.06),
        ("Python: dataplane/exchange.py", 0.04),
    ]


def test_something_else_is_no_profile() -> None:
    """A file that py-spy did not write is refused."""
    with pytest.raises(ValueError, match="not a line"):
        shares(["hello"])
