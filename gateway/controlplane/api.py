"""The admin API: one FastAPI application over `Control`."""

import importlib.metadata
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from gateway.controlplane import api_delivery, api_fleet, api_operations, api_read, api_write
from gateway.controlplane.auth import Access, Guard
from gateway.controlplane.control import Control
from gateway.controlplane.delivery.wiring import Delivery
from gateway.controlplane.operations import Operations
from gateway.errors import ConfigError, RejectedError, SluiceError, StoreError, UnreachableError
from gateway.telemetry import metrics
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.logs import logger

_log = logger("api")
_STATUS: tuple[tuple[type[SluiceError], int], ...] = (
    (ConfigError, 422),
    (RejectedError, 409),
    (StoreError, 503),
    (UnreachableError, 502),
    (SluiceError, 500),
)


def build(
    control: Control, ledger: Ledger, plane: Delivery, operations: Operations, *, workers: int, access: Access
) -> FastAPI:
    """The application; `workers` is how many there should be."""
    version = importlib.metadata.version("sluice")
    app = FastAPI(
        title="Sluice admin API",
        version=version,
        summary="Read and change what the gateway serves.",
        license_info={"name": "Apache-2.0"},
    )
    app.include_router(api_read.router(control, ledger, workers), prefix="/api/v1")
    app.include_router(api_write.router(control), prefix="/api/v1")
    app.include_router(api_delivery.router(control, plane), prefix="/api/v1")
    app.include_router(api_fleet.router(control, plane.lifecycle), prefix="/api/v1")
    app.include_router(api_operations.router(operations), prefix="/api/v1")
    _add_operations(app, control, ledger, plane, workers, version)
    _add_error_handlers(app)
    app.add_middleware(Guard, access=access)
    return app


def _add_operations(
    app: FastAPI, control: Control, ledger: Ledger, plane: Delivery, workers: int, version: str
) -> None:
    @app.get("/healthz", tags=["operations"], response_class=PlainTextResponse)
    async def healthz() -> str:
        """The controller runs."""
        return "ok\n"

    @app.get("/readyz", tags=["operations"], response_class=PlainTextResponse)
    async def readyz() -> PlainTextResponse:
        """At least one worker serves the current generation."""
        current = control.current.number
        ready = sum(session.generation >= current for session in control.hub.sessions)
        text = f"{ready} of {workers} workers serve generation {current}\n"
        return PlainTextResponse(text, 200 if ready else 503)

    @app.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def all_metrics(request: Request) -> Response:
        """The metrics of all workers added up, for Prometheus."""
        snapshot = metrics.Snapshot(
            generation=control.current.number,
            routes=control.current.routes,
            totals=ledger.totals(),
            live=[session.report for session in control.hub.sessions if session.report is not None],
            configured_workers=workers,
            incarnations=dict(ledger.incarnations()),
            version=version,
        )
        text, kind = metrics.render(snapshot, plane.families(), request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})


def _add_error_handlers(app: FastAPI) -> None:
    """Every error is `{"error": ...}`, as on the data plane."""

    @app.exception_handler(SluiceError)
    async def refused(_: Request, error: SluiceError) -> JSONResponse:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        body: dict[str, Any] = {"error": str(error)}
        if isinstance(error, ConfigError):
            body["problems"] = error.problems
        return JSONResponse(body, status)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        return JSONResponse({"error": "; ".join(lines), "problems": lines}, 422)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("request failed", path=request.url.path, exc_info=error)
        return JSONResponse({"error": "internal error; the controller's log has the details"}, 500)
