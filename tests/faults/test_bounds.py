"""Bounds that hold whatever comes: connections of a worker, and what a shadow may take from those it copies."""

import asyncio
import signal
from time import perf_counter

import pytest

from gateway.config import Limits
from gateway.core.route import Shadow, Variant
from gateway.dataplane.deadlines import Deadlines
from tests.wire.backend import Backend, Script
from tests.wire.gateway import infer, pool, route, running, until

_MOST, _MORE = 3, 5
_GATHERED = 200_000
_HOLD = Script(hold=True).header()


def test_connections_beyond_the_bound_wait_for_a_place() -> None:
    """However many come at the same moment, no more are taken in; each has its turn when others leave."""
    with (
        Backend("a") as backend,
        running((route(),), (pool(backend.url),), Limits(max_connections=_MOST)) as gateway,
    ):
        gateway.process.send_signal(signal.SIGSTOP)  # they are all there when it looks
        wires = [gateway.connect(timeout_s=60) for _ in range(_MOST + _MORE)]
        for wire in wires:
            wire.send(infer())
        gateway.process.send_signal(signal.SIGCONT)
        for number, wire in enumerate(wires):
            assert wire.answer().status == 200
            assert gateway.report().connections <= _MOST
            assert len(backend.seen) <= _MOST + number
            wire.socket.close()
        gateway.settle()


def test_a_shadow_on_the_same_backend_takes_none_of_its_slots() -> None:
    """Copies that hang there hold connections and slots of their own: the backend's are all left to the clients."""
    pair = (Variant(name="a", model="m", weight=100), Variant(name="b", model="copy", weight=0))
    copied = route(variants=pair, shadows=(Shadow(variant="b", timeout_s=60),))
    slots = 2
    with (
        Backend("a") as backend,
        running((copied, route("plain")), (pool(backend.url, max_in_flight=slots),)) as gateway,
        gateway.connect(timeout_s=60) as first,
        gateway.connect(timeout_s=60) as second,
    ):
        first.send(infer(extra=_HOLD))
        until(lambda: backend.held == 2, "the request and its copy are there")
        for _ in range(3):
            second.send(infer(name="plain"))
            assert second.answer().status == 200
        backend.release()
        assert first.answer().status == 200
        [counts] = gateway.settle().shadows
        assert (counts.sent, counts.ok) == (1, 1)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_that_must_be_read_whole_has_its_bound(framing: str) -> None:
    """Up to `max_gathered_bytes` it is served; one byte more is 413, whether its length was said before or not."""
    limits = Limits(max_gathered_bytes=_GATHERED)
    with (
        Backend("a") as backend,
        running((route(triton_timeout=True),), (pool(backend.url),), limits) as gateway,
    ):
        for size, status in ((_GATHERED, 200), (_GATHERED + 1, 413)):
            body = b"x" * size
            with gateway.connect() as wire:
                if framing == "length":
                    wire.send(infer(body))
                else:
                    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
                    wire.send(b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, size, body))
                assert wire.answer().status == status
        assert [seen.length for seen in backend.seen] == [_GATHERED]
        gateway.settle()


async def test_one_end_that_fails_holds_up_no_other() -> None:
    """What goes wrong at one request's deadline is reported, and all others have theirs."""
    loop, ended, wrong = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _, context: wrong.append(context["exception"]))

    class Member:
        deadline = perf_counter()

        def __init__(self, number: int) -> None:
            self.number = number

        def on_deadline(self) -> None:
            ended.append(self.number)
            if self.number == 0:
                raise RuntimeError("a bug")

    deadlines = Deadlines(loop)
    for number in range(5):
        deadlines.add(Member(number))
    async with asyncio.timeout(20):
        while len(ended) < 5:
            await asyncio.sleep(0.01)
    assert ended == list(range(5))
    assert [str(error) for error in wrong] == ["a bug"]
