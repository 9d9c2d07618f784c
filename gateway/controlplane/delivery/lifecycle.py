"""A variant's model over the whole of its pool: on a quorum or not at all, and as the table wants it ever after."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway.controlplane.delivery.backend_errors import BusyError, RefusedError, UnavailableError
from gateway.controlplane.delivery.repository import Repository
from gateway.core.pool import Pool
from gateway.core.route import Route, Variant
from gateway.telemetry.logs import logger

_log = logger("delivery")
_RETRY_S = (0.2, 0.5, 1.0, 2.0)
Order = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an order to a pool came to.

    Attributes:
        ok: on the quorum.
        detail: in words, failures first.
    """

    ok: bool
    detail: str


@dataclass(slots=True)
class _Progress:
    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


class Lifecycle:
    """Orders to pools.

    Args:
        repository: orders to single backends.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def lacking(self, variant: Variant, pool: Pool) -> tuple[str, ...]:
        """Backends of the pool that answer and do not have the variant's model."""
        urls = [backend.url.rstrip("/") for backend in pool.backends]
        asked = (self._repository.has(url, variant.model, variant.version) for url in urls)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return tuple(url for url, answer in zip(urls, answers, strict=True) if answer is False)

    async def load(self, variant: Variant, pool: Pool, quorum: float) -> Done:
        """Loads on all backends; done when the quorum is ready, refused as soon as it cannot be reached.

        A backend that does not answer is asked again until the caller gives up: the rollout's own time-out decides.
        """

        async def load(url: str) -> str:
            took = await self._repository.load(url, variant.model, variant.version)
            return f"{url} loaded" if took else f"{url} had it"

        return await self._on_quorum(pool, quorum, load)

    async def warm(self, variant: Variant, pool: Pool, quorum: float) -> Done:
        """Warms up on all backends that have the model; done when the quorum is warm."""

        async def warm(url: str) -> str:
            return await self._repository.warm(url, variant.model, variant.version)

        return await self._on_quorum(pool, quorum, warm)

    async def unload(self, variant: Variant, urls: Sequence[str], patience_s: float = 0.0) -> Done:
        """Unloads on the backends named; one that is gone has nothing left to unload when it comes back.

        Args:
            variant: whose model.
            urls: backends.
            patience_s: so long a backend is asked again that is still at a load which was given up.
        """
        orders = (self._unload(url, variant, patience_s) for url in urls)
        results = await asyncio.gather(*orders, return_exceptions=True)
        bad = [str(r) for r in results if isinstance(r, RefusedError | UnavailableError)]
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, RefusedError | UnavailableError):
                raise result
        return Done(ok=not bad, detail="; ".join(bad) or f"unloaded on {len(urls)} backends")

    async def _unload(self, url: str, variant: Variant, patience_s: float) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + patience_s
        while True:
            try:
                return await self._repository.unload(url, variant.model, variant.version)
            except BusyError:
                if clock() >= until:
                    raise
                await asyncio.sleep(_RETRY_S[0])

    async def _on_quorum(self, pool: Pool, quorum: float, order: Order) -> Done:
        urls = [backend.url.rstrip("/") for backend in pool.backends]
        need = max(1, math.ceil(quorum * len(urls) - 1e-9))
        progress = _Progress()
        tasks = {asyncio.create_task(_insist(url, order)): url for url in urls}
        try:
            waiting = set(tasks)
            while waiting and len(progress.good) < need <= len(urls) - len(progress.bad):
                finished, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    try:
                        progress.good.append(task.result())
                    except RefusedError as error:
                        progress.bad.append(str(error))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        ok = len(progress.good) >= need
        return Done(ok=ok, detail="; ".join([*progress.bad, *progress.good])[:1000])


async def _insist(url: str, order: Order) -> str:
    """One backend, asked until it answers; each reason why not is logged when it is new."""
    attempt, known = 0, ""
    while True:
        try:
            return await order(url)
        except UnavailableError as error:
            if known != (known := str(error)):
                _log.warning("a backend does not take an order, and is asked again", backend=url, reason=known)
            await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            attempt += 1


def in_use(routes: Sequence[Route], variant: Variant, *, but: tuple[str, str]) -> bool:
    """Whether another variant than `but` (route and variant) needs the same model, version and pool."""
    what = (variant.model, variant.version, variant.pool)
    return any(
        (v.model, v.version, v.pool) == what and (route.name, v.name) != but for route in routes for v in route.variants
    )
