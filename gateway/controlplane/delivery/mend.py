"""Drift between what the fleet serves and what the table wants: reported, and mended by loading what is missing."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.controlplane.control import Control
from gateway.controlplane.delivery.backend_errors import RefusedError, UnavailableError
from gateway.controlplane.delivery.repository import Repository
from gateway.core.route import Route
from gateway.telemetry.logs import logger

_IDLE_S = 5.0
_PREPARE_S = 60.0
_log = logger("delivery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A backend without a model that the table sends it requests for.

    Attributes:
        state: `missing`; `unreachable` when the backend does not answer; `refused` when loading did not help.
        since: Unix time.
    """

    pool: str
    url: str
    model: str
    version: str
    state: str
    since: float
    detail: str = ""


class Mender:
    """Compares and mends at intervals.

    Args:
        control: the published table.
        repository: asks and loads.
        interval_s: time between two comparisons; 0 turns them off.
        clock: Unix time.

    Attributes:
        found: what was missing at the last comparison.
        mended: loads that brought a model back.
    """

    def __init__(
        self, control: Control, repository: Repository, *, interval_s: float, clock: Callable[[], float]
    ) -> None:
        self.found: list[Missing] = []
        self.mended = 0
        self._control = control
        self._repository = repository
        self._interval_s = interval_s
        self._clock = clock

    async def run(self) -> None:
        """Compares until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s or _IDLE_S)
            if self._interval_s:
                await self.compare()

    async def compare(self) -> list[Missing]:
        """One comparison, with one attempt to load each thing that is missing."""
        before = {(m.pool, m.url, m.model, m.version): m for m in self.found}
        wanted = self._wanted(self._control.current.routes)
        results = await asyncio.gather(*(self._one(*what, before.get(what)) for what in wanted))
        self.found = [missing for missing in results if missing is not None]
        return self.found

    async def prepare(self, routes: Sequence[Route]) -> None:
        """Loads what these routes need and the fleet lacks, as far as that works within a bound."""
        try:
            async with asyncio.timeout(_PREPARE_S):
                await asyncio.gather(*(self._one(*what, None) for what in self._wanted(routes)))
        except TimeoutError:
            _log.error("not every model was loaded in time", within_s=_PREPARE_S)

    def _wanted(self, routes: Sequence[Route]) -> list[tuple[str, str, str, str]]:
        """Pool, backend, model and version of everything that these routes send requests to."""
        pools = self._control.current.pools
        urls = {pool.name: [backend.url.rstrip("/") for backend in pool.backends] for pool in pools}
        found = (
            (variant.pool, url, variant.model, variant.version)
            for route in routes
            for variant in route.served
            for url in urls.get(variant.pool, ())
        )
        return list(dict.fromkeys(found))

    async def _one(self, pool: str, url: str, model: str, version: str, before: Missing | None) -> Missing | None:
        state, detail = "unreachable", ""
        try:
            if await self._repository.has(url, model, version):
                return None
            state = "missing"
            if await self._repository.load(url, model, version):
                self.mended += 1
                _log.warning("a missing model was loaded again", backend=url, model=model, version=version)
            return None
        except RefusedError as error:
            state, detail = "refused", str(error)
        except UnavailableError as error:
            detail = str(error)
        since = before.since if before is not None else self._clock()
        if before is None:
            _log.warning("a backend lacks a model", backend=url, model=model, version=version, state=state)
        return Missing(pool=pool, url=url, model=model, version=version, state=state, since=since, detail=detail)
