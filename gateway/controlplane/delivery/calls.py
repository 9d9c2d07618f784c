"""Calls to the outside: hooks that may refuse, and events that are told for certain but hold nobody up."""

import asyncio
import contextlib
import hashlib
import hmac
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
from sqlalchemy import delete, func, insert, select, update

from gateway.config_delivery import Webhook
from gateway.controlplane import schema
from gateway.controlplane.control import Control
from gateway.core.rollout import Effect, EffectResult
from gateway.errors import StoreError
from gateway.telemetry.logs import logger

_MAX_OUTBOX = 1000
_FIRST_RETRY_S = 1.0
_MAX_RETRY_S = 300.0
_GIVE_UP_S = 86_400.0
_POLL_S = 0.5
_log = logger("delivery")


def signature(secret: str, stamp: str, body: bytes) -> str:
    """`sha256=` and the hex HMAC-SHA256 of `stamp.body`; the stamp keeps an old message from being sent again."""
    return "sha256=" + hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _signed(body: bytes, secret_env: str, now: float) -> dict[str, str]:
    if not secret_env:
        return {}
    secret = os.environ.get(secret_env, "")
    if not secret:
        raise KeyError(secret_env)
    stamp = str(int(now))
    return {"x-sluice-timestamp": stamp, "x-sluice-signature": signature(secret, stamp, body)}


async def call_hook(client: httpx.AsyncClient, effect: Effect, data: dict[str, Any], now: float) -> EffectResult:
    """Calls a hook once: 2xx confirms, anything else or silence refuses. The effect's id is the idempotency key."""
    hook = effect.hook
    assert hook is not None
    body = msgspec.json.encode({"id": effect.id, "hook": hook.phase, **data})
    headers = {"content-type": "application/json", "idempotency-key": effect.id}
    try:
        headers |= _signed(body, hook.secret_env, now)
        async with asyncio.timeout(hook.timeout_s):
            answer = await client.post(hook.url, content=body, headers=headers, timeout=hook.timeout_s)
    except KeyError:
        return EffectResult(id=effect.id, ok=False, detail=f"environment variable {hook.secret_env} is not set")
    except (TimeoutError, httpx.TimeoutException):
        return EffectResult(id=effect.id, ok=False, detail=f"{hook.url} did not answer within {hook.timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return EffectResult(id=effect.id, ok=False, detail=f"{hook.url}: {error or type(error).__name__}")
    detail = f"{hook.url} answered {answer.status_code}"
    if not answer.is_success and answer.text:
        detail += f": {answer.text[:200]}"
    return EffectResult(id=effect.id, ok=answer.is_success, detail=detail)


def cloud_event(effect: Effect, route: str, rollout: str, data: dict[str, Any], now: float) -> dict[str, Any]:
    """A rollout event as CloudEvents 1.0; the effect's id makes a repeated one recognisable."""
    return {
        "specversion": "1.0",
        "id": effect.id,
        "source": f"/sluice/routes/{route}",
        "type": f"io.sluice.rollout.{effect.event}",
        "subject": rollout,
        "time": datetime.fromtimestamp(now, UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": data,
    }


class Outbox:
    """Events on their way to webhooks: stored first, then sent until taken, at most for a day.

    Each webhook gets its events one after another, the oldest first, and waits for no other. What it has refused comes
    again later, after events that are younger.

    Args:
        control: gives access to the store's thread.
        client: shared HTTP client.
        webhooks: who is told.
        clock: Unix time.
    """

    def __init__(
        self,
        control: Control,
        client: httpx.AsyncClient,
        webhooks: tuple[Webhook, ...],
        clock: Callable[[], float],
    ) -> None:
        self._control = control
        self._client = client
        self._webhooks = {webhook.url: webhook for webhook in webhooks}
        self._clock = clock
        self._wakes = {url: asyncio.Event() for url in self._webhooks}
        self.delivered = 0
        self.failed_attempts = 0
        self.given_up = 0

    async def put(self, event: dict[str, Any]) -> None:
        """Stores an event for every webhook; putting it again changes nothing."""
        if not self._webhooks:
            return
        body = msgspec.json.encode(event).decode()
        rows = [{"id": f"{event['id']} {url}"[:320], "url": url, "body": body} for url in self._webhooks]
        await self._control.run(self._insert, rows, self._clock())
        for wake in self._wakes.values():
            wake.set()

    async def run(self) -> None:
        """Sends what is due, until cancelled."""
        if not self._webhooks:
            return
        self.given_up += await self._control.run(self._forget)
        async with asyncio.TaskGroup() as group:
            for webhook in self._webhooks.values():
                group.create_task(self._tell(webhook))

    async def _tell(self, webhook: Webhook) -> None:
        wake = self._wakes[webhook.url]
        while True:
            wake.clear()
            try:
                for row in await self._control.run(self._due, webhook.url, self._clock()):
                    await self._send(webhook, row)
            except StoreError as error:
                _log.error("cannot read the outbox", reason=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await wake.wait()

    async def _send(self, webhook: Webhook, row: dict[str, Any]) -> None:
        now = self._clock()
        if now - row["at"] > _GIVE_UP_S:
            self.given_up += 1
            await self._control.run(self._remove, row["id"])
            return
        body = row["body"].encode()
        try:
            headers = {"content-type": "application/cloudevents+json", **_signed(body, webhook.secret_env, now)}
            answer = await self._client.post(webhook.url, content=body, headers=headers, timeout=webhook.timeout_s)
            taken = answer.is_success
        except (httpx.HTTPError, httpx.InvalidURL, KeyError):
            taken = False
        if taken:
            self.delivered += 1
            await self._control.run(self._remove, row["id"])
        else:
            self.failed_attempts += 1
            pause = min(_FIRST_RETRY_S * 2 ** row["attempts"], _MAX_RETRY_S)
            await self._control.run(self._postpone, row["id"], row["attempts"] + 1, now + pause)

    def _insert(self, rows: list[dict[str, Any]], now: float) -> None:
        table = schema.outbox

        def write(connection: Any) -> None:
            waiting = connection.execute(select(func.count()).select_from(table)).scalar() or 0
            for row in rows:
                known = connection.execute(select(table.c.id).where(table.c.id == row["id"])).first()
                if known is None and waiting < _MAX_OUTBOX:
                    connection.execute(insert(table).values(at=now, attempts=0, next_at=now, **row))

        self._control.store.write(write)

    def _forget(self) -> int:
        """Removes what is for webhooks that there are no more; returns how many events that were."""
        strangers = delete(schema.outbox).where(schema.outbox.c.url.not_in(list(self._webhooks)))
        return int(self._control.store.write(lambda c: c.execute(strangers).rowcount))

    def _due(self, url: str, now: float) -> list[dict[str, Any]]:
        table = schema.outbox
        query = select(table).where(table.c.url == url, table.c.next_at <= now).order_by(table.c.at).limit(20)
        return self._control.store.read(lambda c: [dict(row) for row in c.execute(query).mappings()])

    def _remove(self, row: str) -> None:
        self._control.store.write(lambda c: c.execute(delete(schema.outbox).where(schema.outbox.c.id == row)))

    def _postpone(self, row: str, attempts: int, next_at: float) -> None:
        table = schema.outbox
        change = update(table).where(table.c.id == row).values(attempts=attempts, next_at=next_at)
        self._control.store.write(lambda c: c.execute(change))
