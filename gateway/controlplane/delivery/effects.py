"""Does what a rollout decided, idempotently: the same effect executed twice leaves the world as once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx

from gateway.controlplane.control import Control
from gateway.controlplane.delivery.calls import Outbox, call_hook, cloud_event
from gateway.controlplane.delivery.lifecycle import Done, Lifecycle, in_use
from gateway.controlplane.delivery.record import Record, with_weights
from gateway.core.pool import Pool
from gateway.core.rollout import Effect, EffectResult
from gateway.core.rollout_stages import stages
from gateway.core.route import Route, Variant
from gateway.errors import StoreError
from gateway.telemetry.logs import logger

_RETRY_S = 0.5
_log = logger("delivery")
Update = Callable[[Callable[[Record], Record]], Awaitable[Record]]


class Effects:
    """Executes effects.

    Args:
        control: publishes weights.
        lifecycle: loads, warms up and unloads.
        outbox: tells events.
        client: for hooks.
        clock: Unix time.
    """

    def __init__(
        self,
        control: Control,
        lifecycle: Lifecycle,
        outbox: Outbox,
        client: httpx.AsyncClient,
        clock: Callable[[], float],
    ) -> None:
        self._control = control
        self._lifecycle = lifecycle
        self._outbox = outbox
        self._client = client
        self._clock = clock

    async def execute(self, effect: Effect, record: Record, update: Update) -> EffectResult:
        """One effect to its end.

        Args:
            effect: what to do.
            record: the rollout as it is stored.
            update: stores a change of the record; what an effect does to the world it writes down first.

        Failures that may pass (a locked store, a silent backend) are tried again here until the caller cancels.
        """
        while True:
            try:
                return await self._once(effect, record, update)
            except StoreError as error:
                _log.error("an effect waits for the store", effect=effect.id, reason=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _once(self, effect: Effect, record: Record, update: Update) -> EffectResult:
        match effect.kind:
            case "weights":
                return await self._weights(effect, update)
            case "load":
                return await self._load(effect, record, update)
            case "warm":
                variant = record.variant(effect.variant)
                return _result(effect, await self._lifecycle.warm(variant, self._pool(variant), effect.quorum))
            case "unload":
                return await self._unload(effect, record)
            case "hook":
                return await call_hook(self._client, effect, story(record), self._clock())
            case "event":
                event = cloud_event(effect, record.route, record.id, story(record), self._clock())
                await self._outbox.put(event)
                return EffectResult(id=effect.id)

    async def _weights(self, effect: Effect, update: Update) -> EffectResult:
        record = await update(lambda stored: stored.with_shares(effect))

        def edit(route: Route) -> Route:
            # A later step's weights are in force already: this effect was done before a crash.
            return route if route.epoch > effect.epoch else with_weights(route, record, effect)

        why = f"{record.id}: {record.state.phase}, {record.because}"
        generation = await self._control.change_route(record.route, edit, who="rollout", why=why)
        return EffectResult(id=effect.id, detail=f"generation {generation}")

    async def _load(self, effect: Effect, record: Record, update: Update) -> EffectResult:
        variant = record.variant(effect.variant)
        pool = self._pool(variant)
        lacking = await self._lifecycle.lacking(variant, pool)
        # Written down before the load: after a crash in between, an abort still knows what to take back.
        await update(lambda stored: replace(stored, loaded=tuple(sorted({*stored.loaded, *lacking}))))
        return _result(effect, await self._lifecycle.load(variant, pool, effect.quorum))

    async def _unload(self, effect: Effect, record: Record) -> EffectResult:
        variant = record.variant(effect.variant)
        if in_use(self._control.current.routes, variant, but=(record.route, variant.name)):
            return EffectResult(id=effect.id, detail="kept: another variant needs the same model and version")
        if variant.name == record.state.candidate:
            if not record.loaded:
                return EffectResult(id=effect.id, detail="kept: it was loaded before the rollout")
            # A load that was given up may still be under way there; what it brings has to go again.
            patience_s = record.policy.load_timeout_s
            return _result(effect, await self._lifecycle.unload(variant, record.loaded, patience_s))
        urls = [backend.url.rstrip("/") for backend in self._pool(variant).backends]
        return _result(effect, await self._lifecycle.unload(variant, urls))

    def _pool(self, variant: Variant) -> Pool:
        return next(pool for pool in self._control.current.pools if pool.name == variant.pool)


def story(record: Record) -> dict[str, Any]:
    """What hooks and events are told of a rollout."""
    state = record.state
    return {
        "rollout": record.id,
        "route": record.route,
        "strategy": record.policy.strategy,
        "stable": state.stable,
        "candidate": state.candidate,
        "phase": state.phase.value,
        "stage": stages(record.policy)[state.stage].name,
        "reason": record.because,
    }


def _result(effect: Effect, done: Done) -> EffectResult:
    return EffectResult(id=effect.id, ok=done.ok, detail=done.detail)
