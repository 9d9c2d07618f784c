"""Requests that the gateway answers itself: health and metadata of a route, and the guarded endpoints.

A route answers for all that stands behind it, not for one backend: it is ready when every variant that takes traffic
is ready somewhere, and its metadata carry its own name.
"""

import asyncio
import importlib.metadata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from gateway import errors
from gateway.core.v2 import GUARDED, Endpoint
from gateway.dataplane.fetch import Reply, fetch
from gateway.dataplane.plan import LocalPlan
from gateway.dataplane.pool import BackendRuntime
from gateway.dataplane.table import RouteRuntime, VariantRuntime
from gateway.errors import Fault, UnreachableError
from gateway.http.connection import ClientConnection
from gateway.http.reply import error_body, reply

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

_TIMEOUT_S = 5.0
_LOAD_TIMEOUT_S = 300.0
_MAX_BODY = 16 << 20
_MAX_IN_FLIGHT = 256
_ALONE = frozenset({Endpoint.LIVE, Endpoint.READY, Endpoint.SERVER})  # answered without asking a backend
_EXTENSIONS = [
    "classification",
    "sequence",
    "model_configuration",
    "statistics",
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "generate",
]


def _json(value: Any) -> Reply:
    return Reply(200, b"application/json", msgspec.json.encode(value))


def _fault(fault: Fault) -> Reply:
    return Reply(fault.status, b"application/json", error_body(fault.text))


def _add(into: Any, other: Any) -> Any:
    """Adds up statistics of two replicas: numbers are summed, the latest of two times stays."""
    if isinstance(into, dict) and isinstance(other, dict):
        return {
            key: max(into.get(key, 0), other[key])
            if key == "last_inference"
            else _add(into[key], other[key])
            if key in into and key in other
            else into.get(key, other.get(key))
            for key in into | other
        }
    if isinstance(into, int) and isinstance(other, int):
        return into + other
    return into


class LocalExchange:
    """One request answered here."""

    def __init__(self, service: "DataPlane", connection: ClientConnection, plan: LocalPlan, body: bytes | None) -> None:
        self._service = service
        self._connection: ClientConnection | None = connection
        self._plan = plan
        self._body = body
        self._parts: list[bytes] = []
        self._size = 0

    # serving.Exchange

    def start(self) -> None:
        """Answers, once the body is here."""
        if self._body is not None:
            self._service.spawn(self._run(self._body))

    def body_data(self, data: bytes | memoryview) -> None:
        """Gathers the body within a bound, where it means something."""
        if self._plan.target.endpoint in GUARDED:
            self._size += len(data)
            if self._size <= _MAX_BODY:
                self._parts.append(bytes(data))

    def body_end(self) -> None:
        """Answers."""
        if self._size > _MAX_BODY:
            self._finish(_fault(errors.BODY_TOO_LARGE))
        else:
            self._service.spawn(self._run(b"".join(self._parts)))

    def body_failed(self, fault: Fault) -> None:
        """The request never became complete."""
        self._finish(_fault(fault))

    def client_gone(self) -> None:
        """Nobody waits any more."""
        self._connection = None

    def client_paused(self, paused: bool) -> None:
        """Answers are small."""

    def _finish(self, answer: Reply) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            content = b"Content-Type: %b\r\n" % answer.content_type
            head_only = self._plan.method == b"HEAD"
            extra = connection.connection_header
            connection.finish(reply(answer.status, answer.body, extra, head_only, content))

    async def _run(self, body: bytes) -> None:
        service = self._service
        answer = _fault(errors.UPSTREAM_INVALID)
        if service.local_in_flight >= _MAX_IN_FLIGHT and self._plan.target.endpoint not in _ALONE:
            self._finish(_fault(errors.SHED_WORKER))
            return
        service.local_in_flight += 1
        try:
            answer = await self._answer(body)
        except UnreachableError as error:
            answer = _fault(errors.NO_BACKEND.but(str(error)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            answer = _fault(errors.UPSTREAM_INVALID.but("the backend's answer is not the JSON it should be"))
        finally:
            service.local_in_flight -= 1
            self._finish(answer)

    # answers

    async def _answer(self, body: bytes) -> Reply:
        target, route = self._plan.target, self._plan.route
        match target.endpoint:
            case Endpoint.LIVE:
                return Reply(200, b"text/plain", b"")
            case Endpoint.READY:
                return Reply(200 if self._service.ready else 503, b"text/plain", b"")
            case Endpoint.SERVER:
                version = importlib.metadata.version("sluice")
                return _json({"name": "sluice", "version": version, "extensions": _EXTENSIONS})
            case Endpoint.ALL_STATS:
                routes = self._service.table.routes.values()
                found = await asyncio.gather(*(self._stats(route, route.variants) for route in routes))
                return _json({"model_stats": [row for rows in found for row in rows]})
            case endpoint if endpoint in GUARDED:
                return await self._guarded(body)
        assert route is not None
        variants = self._asked(route, target.version)
        if isinstance(variants, Fault):
            return _fault(variants)
        match target.endpoint:
            case Endpoint.MODEL_READY:
                ready = await asyncio.gather(*(self._ready(variant) for variant in variants))
                return Reply(200 if all(ready) else 400, b"text/plain", b"")
            case Endpoint.STATS:
                return _json({"model_stats": await self._stats(route, variants)})
            case Endpoint.CONFIG:
                return await self._renamed(route, variants, b"/config")
            case _:
                return await self._renamed(route, variants, b"")

    @staticmethod
    def _asked(route: RouteRuntime, version: str) -> list[VariantRuntime] | Fault:
        """The variants that a request is about: all that take traffic, or the one of a version."""
        if version:
            found = [variant for variant in route.variants if variant.config.version == version]
            return found or errors.UNKNOWN_VERSION.but(
                f"Request for unknown model: '{route.name}' version {version} is not found"
            )
        return [variant for variant in route.variants if variant.config.weight > 0]

    async def _first(self, backends: Iterable[BackendRuntime], path: bytes) -> Reply:
        """The first backend's answer, the next one's when it is out of reach."""
        last = UnreachableError("no backend is available")
        for backend in backends:
            try:
                return await fetch(backend, b"GET", path, timeout_s=_TIMEOUT_S)
            except UnreachableError as error:
                last = error
        raise last

    async def _ready(self, variant: VariantRuntime) -> bool:
        """Whether some backend of the variant's pool has its model ready."""

        async def one(backend: BackendRuntime) -> bool:
            try:
                return (await fetch(backend, b"GET", variant.path + b"/ready", timeout_s=_TIMEOUT_S)).status == 200
            except UnreachableError:
                return False

        return any(await asyncio.gather(*(one(backend) for backend in variant.pool.available)))

    async def _renamed(self, route: RouteRuntime, variants: list[VariantRuntime], action: bytes) -> Reply:
        """Metadata or configuration of the variant that answers for the route, under the route's name."""
        variant = route.primary if route.primary in variants else variants[0]
        answer = await self._first(variant.pool.available, variant.path + action)
        if answer.status != 200:
            return answer
        value: dict[str, Any] = msgspec.json.decode(answer.body, type=dict[str, Any])
        value["name"] = route.name
        if not action:
            versions = {v.config.version for v in route.variants if v.config.version}
            value["versions"] = sorted(versions, key=int) or value.get("versions", [])
        return _json(value)

    async def _stats(self, route: RouteRuntime, variants: list[VariantRuntime]) -> list[dict[str, Any]]:
        """Statistics of a route: one row per model version, replicas added up."""

        async def one(variant: VariantRuntime, backend: BackendRuntime) -> list[dict[str, Any]]:
            try:
                answer = await fetch(backend, b"GET", variant.path + b"/stats", timeout_s=_TIMEOUT_S)
            except UnreachableError:
                return []
            if answer.status != 200:
                return []
            found: dict[str, list[dict[str, Any]]] = msgspec.json.decode(answer.body, type=dict[str, Any])
            return found.get("model_stats", [])

        jobs = [one(variant, backend) for variant in variants for backend in variant.pool.available]
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for part in await asyncio.gather(*jobs):
            for row in part:
                key = (str(row.get("name")), str(row.get("version")))
                rows[key] = _add(rows[key], row) if key in rows else row
        return [row | {"name": route.name} for row in rows.values()]

    async def _guarded(self, body: bytes) -> Reply:
        """An endpoint that an owner opened: sent to every backend of the exposing routes; the first error wins."""
        plan, table = self._plan, self._service.table
        family = GUARDED[plan.target.endpoint]
        routes = [plan.route] if plan.route is not None else table.routes.values()
        exposing = [route for route in routes if family in route.config.expose]
        path = plan.target.path
        if plan.route is not None:
            model = plan.route.primary.config.model
            if plan.target.endpoint is Endpoint.MODEL_TRACE:
                path = f"/v2/models/{model}/trace/setting".encode()
            else:
                path = f"/v2/repository/models/{model}/{plan.target.endpoint.name.lower()}".encode()
        backends = {backend.url: backend for route in exposing for backend in route.primary.pool.available}
        method = plan.method if plan.method != b"HEAD" else b"GET"
        jobs = (fetch(b, method, path, body=body, timeout_s=_LOAD_TIMEOUT_S) for b in backends.values())
        answers = await asyncio.gather(*jobs)
        if not answers:
            raise UnreachableError("no backend is available")
        return next((answer for answer in answers if answer.status >= 400), answers[0])
