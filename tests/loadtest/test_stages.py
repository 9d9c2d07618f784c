"""Reading a profile."""

import pytest

from loadtest.overhead.stages import shares

_START = "run (gateway/app.py:37);run (gateway/dataplane/worker.py:167);uv_run (core.c:464)"


def test_samples_are_added_up_by_stage() -> None:
    """System calls are told apart by who made them, Python by file, the rest is the loop's."""
    lines = [
        f"{_START};start (gateway/dataplane/exchange.py:1);send (gateway/http/client.py:2);write (libc.so.6) 50",
        f"{_START};finish (gateway/http/server.py:3);write (libc.so.6) 20",
        f"{_START};read (libc.so.6) 10",
        f"{_START};epoll_pwait (libc.so.6) 10",
        f"{_START};start (gateway/dataplane/exchange.py:9) 6",
        f"{_START} 4",
    ]
    assert shares(lines) == [
        ("kernel: write to the backend", 0.5),
        ("kernel: write to the client", 0.2),
        ("kernel: read", 0.1),
        ("kernel: wait", 0.1),
        ("Python: dataplane/exchange.py", 0.06),
        ("event loop (uvloop, libuv)", 0.04),
    ]


def test_something_else_is_no_profile() -> None:
    """A file that py-spy did not write is refused."""
    with pytest.raises(ValueError, match="not a line"):
        shares(["hello"])
