"""Events to the outside: each turn of a rollout has one, told until it is taken, and no longer than a day."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from gateway.controlplane import schema
from tests.delivery.plane import Plane, plane
from tests.delivery.triton_double import Call, TritonDouble
from tests.delivery.world import World, eventually, quick, route, world

KINDS = {
    "start", "step", "hold", "pause", "resume", "await_approval", "promote", "complete", "abort", "rollback", "finish",
}  # fmt: skip


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A webhook that refuses every event the first time, and a route that nobody asks."""
    refused: set[str] = set()
    lock = threading.Lock()

    def once_refused(call: Call) -> tuple[int, Any]:
        with lock:
            known = call.json["id"] in refused
            refused.add(call.json["id"])
        return (200, {}) if known else (503, {})

    webhooks = {"delivery": lambda doubles: {"webhooks": [{"url": f"{doubles[0].url}/events"}]}}
    routes = [route(name) for name in ("good", "paused", "asked", "silent", "cohorts")]
    with world(tmp_path_factory.mktemp("w"), routes, **webhooks) as found:
        found.triton.answers["/events"] = once_refused
        found.worker.quiet.add("silent")
        yield found


def _told(w: World) -> dict[str, list[dict[str, Any]]]:
    """Every event by its id, as often as it was sent."""
    found: dict[str, list[dict[str, Any]]] = {}
    for call in w.triton.posted("/events"):
        found.setdefault(call.json["id"], []).append(call.json)
    return found


def _kind(event: dict[str, Any]) -> str:
    return str(event["type"].removeprefix("io.sluice.rollout."))


def test_every_turn_is_told_until_it_is_taken(w: World) -> None:
    """All eleven kinds; each comes again as it was after a refusal, and says which rollout it is about and why."""
    w.begin("good")
    w.begin("silent", quick(max_hold_s=0))
    w.begin("cohorts", quick(strategy="ab", max_time_s=0.1))
    w.begin("paused", quick(steps=[{"weight": 20, "min_time_s": 3600}]))
    w.begin("asked", quick(steps=[{"weight": 20, "min_time_s": 0, "slack": 20, "pause": True}], rollback_window_s=3600))
    w.until("paused", "judging", within_s=60)
    for verb in ("pause", "resume", "abort"):
        assert w.command("paused", verb, why="lunch").status_code == 200
    w.until("asked", "awaiting", within_s=60)
    w.command("asked", "promote")
    w.until("asked", "window", within_s=60)
    w.command("asked", "rollback")
    eventually(lambda: {_kind(event) for (event, *_) in _told(w).values()} == KINDS, 60)
    eventually(lambda: all(len(sent) >= 2 for sent in _told(w).values()), 60)
    for sent in _told(w).values():
        assert all(event == sent[0] for event in sent)
        data = sent[0]["data"]
        assert sent[0]["source"] == f"/sluice/routes/{data['route']}"
        assert sent[0]["subject"] == data["rollout"] == f"{data['route']}.{data['rollout'].split('.')[1]}"
        assert (data["stable"], data["candidate"], bool(data["phase"])) == ("old", "new", True)
    reasons = {_kind(event): event["data"]["reason"] for (event, *_) in _told(w).values()}
    assert reasons["pause"] == "pause by api: lunch"
    assert reasons["finish"].startswith("0.1 s are over (")
    page = str(w.admin.base_url).replace("/api/v1/", "/metrics")
    every = len(_told(w))
    eventually(lambda: f'sluice_events_total{{result="delivered"}} {every}.0' in w.admin.get(page).text)


@pytest.fixture
def deaf() -> Iterator[TritonDouble]:
    """A webhook that never takes anything."""
    found = TritonDouble(answers={"/events": lambda _: (500, {})})
    yield found
    found.close()


def _event(number: int) -> dict[str, Any]:
    return {"id": f"r.1/{number}/0", "type": "io.sluice.rollout.step"}


async def _waiting(at: Plane) -> int:
    query, control = select(func.count()).select_from(schema.outbox), at.delivery.control
    return int(await control.run(control.store.read, lambda c: c.execute(query).scalar() or 0))


def test_an_event_that_nobody_takes_is_given_up_after_a_day(tmp_path: Path, deaf: TritonDouble) -> None:
    """It is tried ever more rarely, and does not stay in the store for ever."""

    async def check() -> None:
        async with plane(tmp_path, deaf.url, webhooks=[{"url": f"{deaf.url}/events"}]) as at:
            outbox = at.delivery.outbox
            await outbox.put(_event(1))
            await outbox.put(_event(1))
            assert await _waiting(at) == 1
            sending = asyncio.create_task(outbox.run())
            tries = 0
            while await _waiting(at):
                if outbox.failed_attempts > tries:
                    tries = outbox.failed_attempts
                    at.clock.now += 2.0**tries if tries < 4 else 86_400.0
                await asyncio.sleep(0.01)
            sending.cancel()
            assert (outbox.given_up, outbox.failed_attempts, len(deaf.posted("/events"))) == (1, 4, 4)

    asyncio.run(asyncio.wait_for(check(), 60))


def test_each_webhook_gets_events_in_order_and_waits_for_no_other(tmp_path: Path) -> None:
    """One takes its time over each and never has two at once; one that hangs holds up itself alone."""
    busy, released = threading.Lock(), threading.Event()
    alone: list[bool] = []

    def slow(_: Call) -> tuple[int, Any]:
        alone.append(busy.acquire(blocking=False))
        time.sleep(0.02)
        if alone[-1]:
            busy.release()
        return 200, {}

    def hanging(_: Call) -> tuple[int, Any]:
        released.wait(60)
        return 200, {}

    async def check(url: str) -> None:
        hooks = [{"url": f"{url}/{path}", "timeout_s": 30} for path in ("hanging", "slow")]
        async with plane(tmp_path, url, webhooks=hooks) as at:
            for number in range(8):
                at.clock.now += 1
                await at.delivery.outbox.put(_event(number))
            sending = asyncio.create_task(at.delivery.outbox.run())
            while len(found.posted("/slow")) < 8 or not found.posted("/hanging"):
                await asyncio.sleep(0.01)
            assert len(found.posted("/hanging")) == 1
            sending.cancel()

    found = TritonDouble(answers={"/slow": slow, "/hanging": hanging})
    try:
        asyncio.run(asyncio.wait_for(check(found.url), 60))
        assert [call.json["id"] for call in found.posted("/slow")] == [_event(number)["id"] for number in range(8)]
        assert all(alone)
    finally:
        released.set()
        found.close()


def test_the_outbox_is_bounded(tmp_path: Path, deaf: TritonDouble) -> None:
    """Webhooks that are away for long cost no more than a thousand rows."""

    async def check() -> None:
        hooks = [{"url": f"{deaf.url}/events/{i}"} for i in range(20)]
        async with plane(tmp_path, deaf.url, webhooks=hooks) as at:
            for number in range(60):
                await at.delivery.outbox.put(_event(number))
            assert await _waiting(at) == 1000

    asyncio.run(check())
