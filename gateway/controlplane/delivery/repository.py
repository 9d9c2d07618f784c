"""One backend's model repository: load, unload and warm up single versions.

Orders go over gRPC where the backend has it (see `model_control`), questions and all else over HTTP.

Triton loads and unloads whole models (server issue 4638). A single version is added or taken by loading the model
again with its own configuration and another `version_policy`: versions that stay keep running and keep their counts
(tried on 2.51.0).
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import httpx

from gateway.controlplane.delivery.backend_errors import BusyError, RefusedError, UnavailableError
from gateway.controlplane.delivery.model_control import ModelControl, Verb
from gateway.controlplane.fleet import TIMEOUT_S
from gateway.telemetry.logs import logger

_LOAD_S = 600.0
_WARM_S = 30.0
_WARM_REQUESTS = 3
_ZEROS: dict[str, Any] = {"BOOL": False, "BYTES": ""}
_log = logger("delivery")


class Repository:
    """Orders to backends; one order per backend and model at a time.

    Args:
        client: shared HTTP client.
        control: takes orders over gRPC.
    """

    def __init__(self, client: httpx.AsyncClient, control: ModelControl) -> None:
        self._client = client
        self._control = control
        self._flights: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def has(self, url: str, model: str, version: str) -> bool:
        """Whether a version is ready. Raises UnavailableError."""
        return await self._ready(url, model, version)

    async def load(self, url: str, model: str, version: str) -> bool:
        """Makes a version ready; returns whether that took a load. Raises RefusedError or UnavailableError."""
        async with self._flights[url, model]:
            if await self._ready(url, model, version):
                return False
            if not _ready_versions(await self._states(url, model)):
                await self._order(url, model, "load")
            if not await self._ready(url, model, version):
                wanted = {*_ready_versions(await self._states(url, model)), version}
                await self._choose(url, model, sorted(wanted, key=int))
            if not await self._ready(url, model, version):
                raise RefusedError(f"{url}: {model}/{version} is not ready after a load that reported success")
            return True

    async def unload(self, url: str, model: str, version: str) -> None:
        """Takes a version away, and with the last one the model.

        Raises RefusedError or UnavailableError; BusyError while the version is still being loaded.
        """
        async with self._flights[url, model]:
            states = await self._states(url, model)
            if states.get(version) == "LOADING":
                raise BusyError(f"{url}: {model}/{version} is still being loaded")
            ready = _ready_versions(states)
            rest = [found for found in ready if found != version] if version else []
            if version and version not in ready:
                return
            if rest:
                await self._choose(url, model, rest)
            elif ready:
                await self._order(url, model, "unload")

    async def warm(self, url: str, model: str, version: str) -> str:
        """Runs a few inferences on made-up input; returns what was done, in words.

        Raises RefusedError when the model fails at it, UnavailableError when the backend does not answer. A model
        that calls the made-up input invalid counts as warm: it has run.
        """
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        described = await self._call("GET", url, path)
        body = {"inputs": [_input(tensor) for tensor in described.json().get("inputs", [])]}
        for _ in range(_WARM_REQUESTS):
            answer = await self._call("POST", url, f"{path}/infer", body, timeout_s=_WARM_S, errors=True)
            if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise RefusedError(f"{url}: {model}/{version} fails: {_error(answer)}")
            if answer.is_error:
                return f"{url} took no made-up input ({_error(answer)})"
        return f"{url} warm"

    async def _ready(self, url: str, model: str, version: str) -> bool:
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/ready"
        answer = await self._call("GET", url, path, errors=True)
        return answer.status_code == httpx.codes.OK

    async def _states(self, url: str, model: str) -> dict[str, str]:
        """State by version, of those that the backend was ever asked to load."""
        rows = (await self._call("POST", url, "/v2/repository/index")).json()
        return {str(row["version"]): row["state"] for row in rows if row["name"] == model and "state" in row}

    async def _choose(self, url: str, model: str, versions: list[str]) -> None:
        config = (await self._call("GET", url, f"/v2/models/{model}/config")).json()
        config["version_policy"] = {"specific": {"versions": [int(version) for version in versions]}}
        await self._order(url, model, "load", json.dumps(config))

    async def _order(self, url: str, model: str, verb: Verb, config: str | None = None) -> None:
        if await self._control.order(url, model, verb, config, _LOAD_S):
            return
        if verb == "load":
            what = "without grpc_port requests on most connections to this backend wait until the load is done"
            _log.warning(what, backend=url, model=model)
        body = {"parameters": {"config": config}} if config else {}
        await self._call("POST", url, f"/v2/repository/models/{model}/{verb}", body, timeout_s=_LOAD_S)

    async def _call(
        self,
        method: str,
        url: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        errors: bool = False,
    ) -> httpx.Response:
        try:
            answer = await self._client.request(method, url + path, json=body, timeout=timeout_s)
        except httpx.ReadTimeout as error:  # a load over HTTP keeps Triton from answering
            raise BusyError(f"{url}: no answer within {timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise UnavailableError(f"{url}: {error or type(error).__name__}") from error
        if answer.is_error and not errors:
            raise RefusedError(f"{url}: {_error(answer)}")
        return answer


def _ready_versions(states: Mapping[str, str]) -> list[str]:
    return sorted((version for version, state in states.items() if state == "READY"), key=int)


def _error(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _input(tensor: dict[str, Any]) -> dict[str, Any]:
    """A tensor of zeros; dimensions that are open get size 1."""
    shape = [max(1, int(size)) for size in tensor["shape"]]
    count = 1
    for size in shape:
        count *= size
    zero = _ZEROS.get(tensor["datatype"], 0)
    return {
        "name": tensor["name"],
        "datatype": tensor["datatype"],
        "shape": shape,
        "data": [zero] * min(count, 1 << 20),
    }
