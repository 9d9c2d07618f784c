"""The admin API of the fleet's models: what each backend has, and loading or unloading one by hand."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from gateway.controlplane.api_models import ErrorBody
from gateway.controlplane.api_write import DryRun, Who, Why
from gateway.controlplane.control import Control
from gateway.controlplane.delivery.lifecycle import Lifecycle
from gateway.core.pool import Pool
from gateway.core.route import Variant
from gateway.errors import RejectedError, UnreachableError

_LOAD_WITHIN_S = 300.0
_ERRORS: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorBody, "description": "a route needs it, or a backend refused"},
    502: {"model": ErrorBody, "description": "a backend does not answer"},
}
PoolName = Annotated[str, Query(description="pool whose backends are meant")]
Version = Annotated[str, Query(max_length=20, pattern=r"^\d*$", description="left out: as Triton's policy says")]


class ModelBody(BaseModel):
    """One model and version on one backend; `state` is Triton's, `unreachable` stands for a backend without answer."""

    pool: str
    backend: str
    model: str
    version: str
    state: str
    reason: str


class OrderBody(BaseModel):
    """What an order to a pool came to."""

    pool: str
    model: str
    version: str
    dry_run: bool
    detail: str


def router(control: Control, lifecycle: Lifecycle) -> APIRouter:
    """Endpoints for models."""
    api = APIRouter(tags=["fleet"], responses=_ERRORS)

    def find(name: str) -> Pool:
        pools = {pool.name: pool for pool in control.current.pools}
        if name not in pools:
            raise RejectedError(f"pool {name!r} does not exist (known: {', '.join(pools)})")
        return pools[name]

    @api.get("/models")
    async def models() -> list[ModelBody]:
        """Every model on every backend, as the backends' repository indexes say."""
        places = [(pool.name, backend.url) for pool in control.current.pools for backend in pool.backends]
        answers = await asyncio.gather(*(control.fleet.index(url.rstrip("/")) for _, url in places))
        rows = []
        for (pool, url), answer in zip(places, answers, strict=True):
            if isinstance(answer, str):
                row = ModelBody(pool=pool, backend=url, model="", version="", state="unreachable", reason=answer)
                rows.append(row)
                continue
            for found in answer:
                state = found.state or "UNLOADED"
                rows.append(
                    ModelBody(
                        pool=pool,
                        backend=url,
                        model=found.name,
                        version=found.version,
                        state=state,
                        reason=found.reason,
                    )
                )
        return rows

    @api.post("/models/{model}/load")
    async def load(
        model: Annotated[str, Path(max_length=200)],
        *,
        version: Version = "",
        pool: PoolName = "default",
        who: Who = "api",
        why: Why = "",
        dry_run: DryRun = False,
    ) -> OrderBody:
        """Loads a model or one version of it on every backend of a pool."""
        variant, found = Variant(name=model, model=model, version=version, pool=pool), find(pool)
        lacking = await lifecycle.lacking(variant, found)
        detail = f"missing on: {', '.join(lacking) or 'none'}"
        if not dry_run:
            try:
                async with asyncio.timeout(_LOAD_WITHIN_S):
                    done = await lifecycle.load(variant, found, 1.0)
            except TimeoutError as error:
                raise UnreachableError(f"not loaded everywhere within {_LOAD_WITHIN_S:g} s; {detail}") from error
            if not done.ok:
                raise RejectedError(done.detail)
            detail = done.detail
            await control.note(who, why, "load", f"{model}/{version or 'policy'} on pool {pool}")
        return OrderBody(pool=pool, model=model, version=version, dry_run=dry_run, detail=detail)

    @api.post("/models/{model}/unload")
    async def unload(
        model: Annotated[str, Path(max_length=200)],
        *,
        version: Version = "",
        pool: PoolName = "default",
        who: Who = "api",
        why: Why = "",
        dry_run: DryRun = False,
        force: Annotated[bool, Query(description="even if a route needs it")] = False,
    ) -> OrderBody:
        """Unloads a model or one version of it on every backend of a pool, unless a route needs it."""
        variant, found = Variant(name=model, model=model, version=version, pool=pool), find(pool)
        routes = control.current.routes
        needed = [
            route.name
            for route in routes
            for v in route.variants
            if (v.model, v.pool) == (model, pool) and version in {"", v.version}
        ]
        if needed and not force:
            raise RejectedError(f"{model}/{version or '*'} is needed by: {', '.join(dict.fromkeys(needed))}")
        urls = [backend.url.rstrip("/") for backend in found.backends]
        detail = f"would be unloaded on {len(urls)} backends"
        if not dry_run:
            done = await lifecycle.unload(variant, urls)
            if not done.ok:
                raise RejectedError(done.detail)
            detail = done.detail
            await control.note(who, why, "unload", f"{model}/{version or '*'} on pool {pool}")
        return OrderBody(pool=pool, model=model, version=version, dry_run=dry_run, detail=detail)

    return api
