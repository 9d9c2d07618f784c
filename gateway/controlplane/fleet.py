"""What the Tritons of the pools say they have, asked over their HTTP API."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from gateway.core.pool import Pool
from gateway.core.route import Variant

TIMEOUT_S = 3.0
_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class ModelState:
    """One line of a repository index; `version` is empty for a model that is not loaded."""

    name: str
    version: str
    state: str
    reason: str

    @property
    def label(self) -> str:
        """The model as people write it."""
        shown = f"{self.name}/{self.version}" if self.version else self.name
        return shown if self.state == "READY" else f"{shown} ({self.state.lower() or 'not loaded'})"


class Fleet:
    """Asks backends, every question under a deadline.

    Args:
        client: shared HTTP client; its time-outs bound each request.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ready(self, url: str, model: str, version: str) -> bool | str:
        """Whether a backend serves a model; a text where it could not be asked."""
        path = f"{url}/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/ready"
        try:
            return (await self._client.get(path, timeout=TIMEOUT_S)).status_code == httpx.codes.OK
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__

    async def index(self, url: str) -> list[ModelState] | str:
        """A backend's repository index; a text where it could not be asked."""
        try:
            answer = await self._client.post(f"{url}/v2/repository/index", timeout=TIMEOUT_S)
            answer.raise_for_status()
            return [
                ModelState(row["name"], row.get("version", ""), row.get("state", ""), row.get("reason", ""))
                for row in answer.json()
            ]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return str(error) or type(error).__name__

    async def missing(self, variants: Iterable[Variant], pools: tuple[Pool, ...]) -> list[str]:
        """One line for each variant that no backend of its pool serves, saying what there is instead."""
        known = {pool.name: pool for pool in pools}
        wanted = dict.fromkeys((v.model, v.version, v.pool) for v in variants if v.pool in known)
        found = await asyncio.gather(*(self._missing(model, version, known[pool]) for model, version, pool in wanted))
        return [line for line in found if line]

    async def _missing(self, model: str, version: str, pool: Pool) -> str:
        urls = [backend.url.rstrip("/") for backend in pool.backends]
        answers = await asyncio.gather(*(self.ready(url, model, version) for url in urls))
        if any(answer is True for answer in answers):
            return ""
        what = f"model {model!r}" + (f" version {version}" if version else "")
        reasons = [f"{url}: {answer}" for url, answer in zip(urls, answers, strict=True) if isinstance(answer, str)]
        if len(reasons) == len(urls):
            return f"{what}: no backend of pool {pool.name!r} answers ({'; '.join(reasons[:3])})"
        listed = await asyncio.gather(*(self.index(url) for url in urls))
        there = sorted({state.label for states in listed if isinstance(states, list) for state in states})
        shown = ", ".join(there[:_MAX_LISTED]) + (", ..." if len(there) > _MAX_LISTED else "")
        return f"{what} is ready on no backend of pool {pool.name!r}; there is: {shown or 'nothing'}"
