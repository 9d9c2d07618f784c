"""The admin API's questions."""

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from gateway.controlplane.api_models import (
    AuditBody,
    BackendBody,
    ErrorBody,
    GenerationBody,
    GenerationSummary,
    RoutesBody,
    TableBody,
    WorkerBody,
)
from gateway.controlplane.control import Control
from gateway.controlplane.store import Generation
from gateway.telemetry.ledger import Ledger

Limit = Annotated[int, Query(ge=1, le=1000, description="at most so many, newest first")]
Before = Annotated[int | None, Query(description="only older ones: for the next page")]
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody}}


def router(control: Control, ledger: Ledger, workers: int) -> APIRouter:
    """All GET endpoints below the API's prefix."""
    api = APIRouter(tags=["read"])

    @api.get("/routes")
    async def routes() -> RoutesBody:
        """The served routes."""
        return RoutesBody(generation=control.current.number, routes=control.current.routes)

    @api.get("/table")
    async def table() -> TableBody:
        """The published table, pools included."""
        current = control.current
        return TableBody(generation=current.number, routes=current.routes, pools=current.pools)

    @api.get("/generations")
    async def generations(limit: Limit = 50, before: Before = None) -> list[GenerationSummary]:
        """The history."""
        found = await control.run(control.store.generations, limit, before)
        return [GenerationSummary(**_summary(generation, control)) for generation in found]

    @api.get("/generations/{number}", responses=_NOT_FOUND)
    async def generation(number: int) -> GenerationBody:
        """One generation with its routes."""
        found = await control.run(control.store.generation, number)
        if found is None:
            raise HTTPException(404, f"generation {number} does not exist")
        return GenerationBody(**_summary(found, control), routes=found.routes)

    @api.get("/audit")
    async def audit(limit: Limit = 50, before: Before = None) -> list[AuditBody]:
        """Who did what and when."""
        found = await control.run(control.store.audit, limit, before)
        return [AuditBody.model_validate(entry, from_attributes=True) for entry in found]

    @api.get("/workers")
    async def worker_list() -> list[WorkerBody]:
        """Every worker slot."""
        return _workers(control, ledger, workers)

    @api.get("/backends")
    async def backends() -> list[BackendBody]:
        """Every backend as the workers see it."""
        return _backends(control, ledger)

    return api


def _summary(generation: Generation, control: Control) -> dict[str, Any]:
    names = ("number", "created", "who", "why", "kind")
    return {name: getattr(generation, name) for name in names} | {
        "current": generation.number == control.current.number
    }


def _workers(control: Control, ledger: Ledger, workers: int) -> list[WorkerBody]:
    sessions = {session.worker: session for session in control.hub.sessions}
    starts = ledger.incarnations()
    rows = []
    for slot in range(workers):
        row = WorkerBody(worker=slot, connected=slot in sessions, starts=starts.get(slot, 0))
        if session := sessions.get(slot):
            row.pid, row.generation = session.pid, session.generation
            if report := session.report:
                row.uptime_s, row.connections, row.in_flight = report.uptime_s, report.connections, report.in_flight
                row.accepted, row.buffered_bytes = report.accepted, report.buffered_bytes
                row.rss_bytes, row.draining = report.rss_bytes, report.draining
        rows.append(row)
    return rows


def _backends(control: Control, ledger: Ledger) -> list[BackendBody]:
    totals = ledger.totals().backends
    live = [status for s in control.hub.sessions if s.report for status in s.report.backends]
    rows = []
    for pool in control.current.pools:
        # Behind a name there are the addresses that the workers have found.
        urls = dict.fromkeys(backend.url for backend in pool.backends if not backend.dns)
        urls |= dict.fromkeys(sorted({status.url for status in live if status.pool == pool.name}))
        for url in urls:
            seen = [status for status in live if (status.pool, status.url) == (pool.name, url)]
            counts = totals.get((pool.name, url), {})
            rows.append(
                BackendBody(
                    pool=pool.name,
                    url=url,
                    states=dict(Counter(status.state for status in seen)),
                    in_flight=sum(status.in_flight for status in seen),
                    idle=sum(status.idle for status in seen),
                    requests=counts.get("requests", 0),
                    failures=counts.get("failures", 0),
                    connects=counts.get("connects", 0),
                    connect_failures=counts.get("connect_failures", 0),
                    ejections=counts.get("ejections", 0),
                )
            )
    return rows
