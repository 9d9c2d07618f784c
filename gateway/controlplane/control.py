"""The one place where a route table changes: check, persist, write the table file, publish, wait for the workers."""

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import yaml

from gateway.configfile import dotted, minimal
from gateway.controlplane import tablefile
from gateway.controlplane.fleet import Fleet
from gateway.controlplane.hub import Hub
from gateway.controlplane.store import Change, Generation, Store
from gateway.core.pool import Pool, keep_drained
from gateway.core.route import Route, problems
from gateway.errors import ConfigError, RejectedError, StoreError
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.logs import logger

P = ParamSpec("P")
T = TypeVar("T")

APPLIED_WITHIN_S = 5.0
_log = logger("control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an apply or a rollback did, or would do.

    Attributes:
        generation: the one that is served now.
        changed: False when the routes were already so.
        dry_run: nothing was changed because nothing should be.
        diff: unified diff of the routes as YAML.
        applied: slots of the workers that serve it.
        late: slots of connected workers that did not take it over in time.
    """

    generation: int
    changed: bool
    dry_run: bool
    diff: str
    applied: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)


class Control:
    """Holds the current generation and changes it, one change at a time.

    Args:
        store: opened by the caller; used from one thread only.
        pools: of this process's configuration.
        clock: Unix time.

    Attributes:
        prepare: called with routes that are about to be served again; loads their models as far as it can.
        guard: sees every set of routes that a person wants; returns what may be served in its place, or raises
            RejectedError (a running rollout has its route to itself).
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        fleet: Fleet,
        ledger: Ledger,
        *,
        table_path: Path,
        pools: tuple[Pool, ...],
        clock: Callable[[], float],
    ) -> None:
        self.store = store
        self.hub = hub
        self.fleet = fleet
        self._ledger = ledger
        self._table_path = table_path
        self._pools = pools
        self._clock = clock
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._current: Generation | None = None
        self.prepare: Callable[[tuple[Route, ...]], Awaitable[None]] = _nothing
        self.guard: Callable[[tuple[Route, ...]], tuple[Route, ...]] = lambda routes: routes

    @property
    def current(self) -> Generation:
        """The generation that is served."""
        assert self._current is not None, "start() comes first"
        return self._current

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a method of the store in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))

    async def start(self, routes: tuple[Route, ...] | None) -> None:
        """Brings the store, the configuration and the given routes to one generation and publishes it.

        Raises ConfigError when stored routes contradict the configured pools, StoreError as the store does.
        """
        latest = await self.run(self.store.latest)
        on_disk = tablefile.read(self._table_path)
        above = on_disk.generation if on_disk else 0
        before = latest.routes if latest else on_disk.routes if on_disk else ()
        self._pools = keep_drained(self._pools, latest.pools if latest else on_disk.pools if on_disk else ())
        wanted = before if routes is None else self._with_epochs(routes, before)
        wrong = problems(wanted, self._pools)
        if wrong:
            source = "stored routes" if routes is None else "given routes"
            raise ConfigError([f"{source}: {dotted(problem.where)}: {problem.what}" for problem in wrong])
        if latest and latest.routes == wanted and latest.pools == self._pools and latest.number >= above:
            self._current = latest
            await self._write_table(latest)
            self.hub.publish(latest.table)
            return
        if routes is not None and wanted != before:
            change = self._change("serve", "routes given at start", "apply")
        elif latest is None and on_disk is not None:
            change = self._change("serve", "routes recovered from the published table", "config")
        else:
            change = self._change("serve", "settings of this start", "config")
        await self._publish(change, wanted, above)

    async def apply(
        self,
        routes: tuple[Route, ...],
        *,
        who: str,
        why: str,
        if_generation: int | None = None,
        dry_run: bool = False,
        verify: bool = True,
    ) -> Outcome:
        """Makes `routes` the served ones.

        Raises ConfigError for contradictions and missing models, RejectedError when `if_generation` is not current.
        """
        async with self._lock:
            return await self._change_to(routes, self._change(who, why, "apply"), if_generation, dry_run, verify)

    async def rollback(self, to: int | None, *, who: str, why: str, dry_run: bool = False) -> Outcome:
        """Serves the routes of an earlier generation again, the last different one when `to` is None.

        Raises RejectedError when there is none. Models that were unloaded since are loaded where that works within a
        bound; what cannot be loaded does not stop it, because a rollback must work in an outage.
        """
        async with self._lock:
            target = await (self._previous() if to is None else self.run(self.store.generation, to))
        if target is None:
            what = "there is no earlier generation" if to is None else f"generation {to} does not exist"
            raise RejectedError(what)
        if not dry_run:
            await self.prepare(target.routes)
        async with self._lock:
            change = self._change(who, why or f"back to generation {target.number}", "rollback")
            return await self._change_to(target.routes, change, None, dry_run, verify=False)

    async def change_route(self, name: str, edit: Callable[[Route], Route], *, who: str, why: str) -> int:
        """Edits one route and waits until every connected worker serves it; returns the generation.

        An edit that changes nothing makes no generation, but is waited for all the same. Raises RejectedError when
        the route is gone.
        """
        async with self._lock:
            routes = self.current.routes
            if not any(route.name == name for route in routes):
                raise RejectedError(f"route {name!r} does not exist")
            edited = tuple(edit(route) if route.name == name else route for route in routes)
            if edited != routes:
                if wrong := problems(edited, self._pools):
                    raise RejectedError("; ".join(problem.what for problem in wrong))
                await self._publish(self._change(who, why, "rollout"), edited)
            generation = self.current.number
        while late := await self.hub.applied(generation, APPLIED_WITHIN_S):
            _log.warning("workers have not taken over a generation yet", generation=generation, workers=late)
        return generation

    async def change_pools(self, pools: tuple[Pool, ...], who: str, why: str, kind: str) -> list[int]:
        """Publishes other settings of the pools; returns the slots of workers that are late."""
        async with self._lock:
            self._pools = pools
            await self._publish(self._change(who, why, kind), self.current.routes)
        return await self.hub.applied(self.current.number, APPLIED_WITHIN_S)

    async def note(self, who: str, why: str, kind: str, detail: str) -> None:
        """Puts an order that changes no route into the audit trail."""
        text = f"{detail}: {why}" if why else detail
        await self.run(self.store.note, self._change(who, why, kind), self.current.number, text)

    async def _previous(self) -> Generation | None:
        before: int | None = self.current.number
        while before is not None:
            found = await self.run(self.store.generations, 100, before)
            for generation in found:
                if generation.routes != self.current.routes:
                    return generation
            before = found[-1].number if found else None
        return None

    async def _change_to(
        self, routes: tuple[Route, ...], change: Change, if_generation: int | None, dry_run: bool, verify: bool
    ) -> Outcome:
        current = self.current
        if if_generation is not None and if_generation != current.number:
            raise RejectedError(f"generation {if_generation} is no longer current; {current.number} is")
        routes = self.guard(self._with_epochs(routes, current.routes))
        if wrong := problems(routes, self._pools):
            raise ConfigError([f"{dotted(problem.where)}: {problem.what}" for problem in wrong])
        if verify:
            # What a rollout will load need not be there yet, nor any more after it was taken back.
            needed = (v for route in routes for v in (route.served if route.rollout else route.variants))
            missing = await self.fleet.missing(needed, self._pools)
            if missing:
                raise ConfigError(missing)
        diff = difference(current.routes, routes)
        changed = routes != current.routes
        if dry_run or not changed:
            return Outcome(generation=current.number, changed=changed, dry_run=dry_run, diff=diff)
        await self._publish(change, routes)
        late = await self.hub.applied(self.current.number, APPLIED_WITHIN_S)
        applied = [s.worker for s in self.hub.sessions if s.worker not in late]
        return Outcome(
            generation=self.current.number, changed=True, dry_run=False, diff=diff, applied=applied, late=late
        )

    async def _publish(self, change: Change, routes: tuple[Route, ...], above: int = 0) -> None:
        """Persist first: what a worker serves is always in the store."""
        generation = await self.run(self.store.add, change, routes, self._pools, above)
        self._current = generation
        await self._write_table(generation)
        self.hub.publish(generation.table)
        self._ledger.forget_routes(frozenset(route.name for route in routes))

    async def _write_table(self, generation: Generation) -> None:
        """A table that is in the store is published even if its file cannot be written: that serves only restarts."""
        try:
            await self.run(tablefile.write, self._table_path, generation.table)
        except StoreError as error:
            _log.error("a worker that starts now would serve an old table", reason=str(error))

    def _change(self, who: str, why: str, kind: str) -> Change:
        return Change(who=who[:200], why=why[:2000], kind=kind, at=self._clock())

    @staticmethod
    def _with_epochs(routes: tuple[Route, ...], before: tuple[Route, ...]) -> tuple[Route, ...]:
        """Files say nothing of epochs: each route goes on with its own."""
        epochs = {route.name: route.epoch for route in before}
        return tuple(replace(route, epoch=epochs.get(route.name, 0)) for route in routes)


async def _nothing(_: tuple[Route, ...]) -> None:
    """There is nobody to load models."""


def difference(before: tuple[Route, ...], after: tuple[Route, ...]) -> str:
    """A unified diff of two sets of routes as YAML; empty when they are equal."""
    old, new = (_as_yaml(routes).splitlines(keepends=True) for routes in (before, after))
    return "".join(difflib.unified_diff(old, new, "current", "new"))


def _as_yaml(routes: tuple[Route, ...]) -> str:
    plain = [minimal(replace(route, epoch=0)) for route in routes]
    return yaml.safe_dump({"routes": plain}, sort_keys=False, allow_unicode=True, width=110)
