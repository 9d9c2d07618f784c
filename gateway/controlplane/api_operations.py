"""The admin API's orders to the gateway as a whole."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from gateway.controlplane.api_write import DryRun, Who, Why
from gateway.controlplane.operations import Operations


class ReloadBody(BaseModel):
    """What taking in the settings does, or would do.

    Attributes:
        changed: keys that differ; without any, certificates, keys and tokens are read again all the same.
        workers: the workers are replaced, one after another.
        controller: the controller starts anew.
    """

    changed: list[str]
    workers: bool
    controller: bool
    dry_run: bool


class RestartBody(BaseModel):
    """What is replaced, or would be."""

    what: str
    dry_run: bool


class DrainBody(BaseModel):
    """What a maintenance order did, or would do; see `Drained`."""

    generation: int
    changed: bool
    dry_run: bool
    pools: list[str]
    drained: list[str]
    late: list[int]


def router(operations: Operations) -> APIRouter:
    """All endpoints."""
    api = APIRouter(tags=["operations"])

    @api.post("/reload")
    async def reload(who: Who = "api", why: Why = "", dry_run: DryRun = False) -> ReloadBody:
        """Takes in sluice.yaml and the files it names."""
        found = await operations.reload(who=who, why=why, dry_run=dry_run)
        return ReloadBody(
            changed=list(found.changed), workers=found.workers, controller=found.controller, dry_run=dry_run
        )

    @api.post("/restart")
    async def restart(
        *,
        workers_only: Annotated[bool, Query(description="leave the other processes alone")] = False,
        who: Who = "api",
        why: Why = "",
        dry_run: DryRun = False,
    ) -> RestartBody:
        """Replaces the workers, or everything, by what is installed now, without refusing a connection."""
        await operations.restart(workers_only=workers_only, who=who, why=why, dry_run=dry_run)
        return RestartBody(what="workers" if workers_only else "all", dry_run=dry_run)

    @api.post("/drain")
    async def drain(
        backend: Annotated[str, Query(max_length=300, description="the backend's url")],
        *,
        undo: Annotated[bool, Query(description="back into service")] = False,
        force: Annotated[bool, Query(description="even the last backend of a pool")] = False,
        who: Who = "api",
        why: Why = "",
        dry_run: DryRun = False,
    ) -> DrainBody:
        """Takes a backend out of service for maintenance: what it works on ends, nothing new begins."""
        done = await operations.drain(backend, undo=undo, force=force, who=who, why=why, dry_run=dry_run)
        return DrainBody.model_validate(done, from_attributes=True)

    return api
