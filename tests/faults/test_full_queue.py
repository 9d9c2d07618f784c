"""A queue that is full for long: everyone is told so, nothing grows, and service is normal as soon as it ends."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.config import Limits
from gateway.core.pool import Pool
from gateway.core.route import Route
from gateway.telemetry.records import Outcome
from tests.wire.backend import Backend, Script
from tests.wire.client import Wire
from tests.wire.gateway import infer, pool, route, running, until

_HOLD = Script(hold=True).header()
_FIRST = b"x-sluice-priority: 1\r\n"
_BODY = b"x" * 20_000
_SLOTS, _PLACES, _ASKING = 2, 4, 12
# A request waits for one second where nothing else is set, so that in thirty seconds the line fills anew thirty times.
_WAIT_S, _TURNS, _WARM_UP = 0.2, 30, 5
_GROWTH = 4 << 20  # the line holds 120 kB at most; all bodies together are 8 MB

Served = tuple[Route, Pool, Limits]
_WAITS: dict[str, Any] = {"max_queued": _PLACES, "queue_timeout_s": _WAIT_S}


def _full_route(url: str) -> Served:
    return route(max_in_flight=_SLOTS, **_WAITS), pool(url), Limits()


def _full_worker(url: str) -> Served:
    return route(**_WAITS), pool(url), Limits(max_in_flight=_SLOTS)


def _full_backend(url: str) -> Served:
    return route(**_WAITS), pool(url, max_in_flight=_SLOTS), Limits()


@pytest.mark.parametrize("kind", [_full_route, _full_worker, _full_backend])
def test_a_queue_that_stays_full(kind: Callable[[str], Served]) -> None:
    """Whoever asks meanwhile gets 503 with Retry-After, however often; those who ask after it get 200 at once."""
    with ExitStack() as stack:
        backend = stack.enter_context(Backend("a"))
        served, fleet, limits = kind(backend.url)
        gateway = stack.enter_context(running((served,), (fleet,), limits))
        holders = [stack.enter_context(gateway.connect(timeout_s=60)) for _ in range(_SLOTS)]
        for holder in holders:
            holder.send(infer(extra=_HOLD))
        until(lambda: backend.held == _SLOTS, "all slots are taken")
        asking = [stack.enter_context(gateway.connect(timeout_s=60)) for _ in range(_ASKING)]
        rss = descriptors = refused = 0
        for turn in range(_TURNS):
            if turn == _WARM_UP:
                rss, descriptors = gateway.rss(), gateway.descriptors()
            for number, wire in enumerate(asking):
                wire.send(infer(_BODY, extra=_FIRST if number == _ASKING - 1 else b""))
            report = gateway.report()
            assert report.in_flight <= _SLOTS
            assert report.buffered_bytes <= _SLOTS * 2 + _PLACES * len(_BODY)
            with gateway.connect() as leaver:
                leaver.send(infer(_BODY))
            for wire in asking:
                _sent_away(wire)
                refused += 1
        assert gateway.rss() - rss < _GROWTH
        until(lambda: gateway.descriptors() <= descriptors, "no descriptor is kept")
        assert len(backend.seen) == _SLOTS

        backend.release()
        for wire in holders:
            assert wire.answer().status == 200
        for number, wire in enumerate([*asking, *holders]):
            wire.send(infer(_BODY, test_id=f"after-{number}"))
            answer = wire.answer()
            assert (answer.status, json.loads(answer.body)["id"]) == (200, f"after-{number}")
        gateway.settle()
        shed, left = gateway.outcome(Outcome.SHED), gateway.outcome(Outcome.CANCELLED)
        assert gateway.outcome(Outcome.OK) == 2 * _SLOTS + _ASKING
        assert refused <= shed
        assert shed + left <= refused + _TURNS


def _sent_away(wire: Wire) -> None:
    """The answer says that it is overload and when to come back, and the connection stays."""
    answer = wire.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers.get("connection") != "close"
    assert b"too many requests" in answer.body or b"at its limit" in answer.body
