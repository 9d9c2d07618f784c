"""The admin API's orders. Each takes `dry_run`, says who and why, and answers with what happened."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Request

from gateway.configfile import parse_json, parse_routes
from gateway.controlplane.api_models import ROUTES_EXAMPLE, ErrorBody, OutcomeBody
from gateway.controlplane.control import Control
from gateway.core.route import Routes
from gateway.errors import ConfigError

MAX_BODY = 8 << 20
Who = Annotated[str, Header(alias="x-sluice-who", max_length=200, description="for the audit trail")]
Why = Annotated[str, Query(max_length=2000, description="for the history")]
DryRun = Annotated[bool, Query(description="say what would happen, change nothing")]
_ERRORS: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorBody, "description": "refused: another generation is current, or there is none to go back to"},
    422: {"model": ErrorBody, "description": "the routes are wrong, or a model is ready on no backend"},
    503: {"model": ErrorBody, "description": "the store failed"},
}
_ROUTES_SCHEMA = {
    "type": "object",
    "required": ["routes"],
    "additionalProperties": False,
    "properties": {"routes": {"type": "array", "items": {"$ref": "#/components/schemas/Route"}}},
}
_ROUTES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _ROUTES_SCHEMA, "example": ROUTES_EXAMPLE},
            "application/yaml": {"schema": {"type": "string", "description": "contents of routes.yaml"}},
        },
    }
}


def router(control: Control) -> APIRouter:
    """All endpoints that change something."""
    api = APIRouter(tags=["write"], responses=_ERRORS)

    @api.put("/routes", openapi_extra=_ROUTES_BODY)
    async def put_routes(
        request: Request,
        *,
        who: Who = "api",
        why: Why = "",
        dry_run: DryRun = False,
        verify: Annotated[bool, Query(description="check that each model is ready on its pool")] = True,
        if_generation: Annotated[int | None, Query(description="refuse unless this one is current")] = None,
    ) -> OutcomeBody:
        """Serves these routes instead of all present ones."""
        routes = _parse(request, await read_body(request))
        done = await control.apply(
            routes.routes, who=who, why=why, if_generation=if_generation, dry_run=dry_run, verify=verify
        )
        return OutcomeBody.model_validate(done, from_attributes=True)

    @api.post("/rollback")
    async def rollback(
        to: Annotated[int | None, Query(description="generation; the last different one when left out")] = None,
        who: Who = "api",
        why: Why = "",
        dry_run: DryRun = False,
    ) -> OutcomeBody:
        """Serves the routes of an earlier generation again, as a new generation."""
        done = await control.rollback(to, who=who, why=why, dry_run=dry_run)
        return OutcomeBody.model_validate(done, from_attributes=True)

    return api


async def read_body(request: Request) -> bytes:
    """The request's body, refused with 413 as soon as it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY >> 20} MiB")
    return bytes(body)


def _parse(request: Request, body: bytes) -> Routes:
    if "yaml" in request.headers.get("content-type", ""):
        try:
            return parse_routes(body.decode(), "body")
        except UnicodeDecodeError as error:
            raise ConfigError(["body: not UTF-8"]) from error
    return parse_json(body, Routes)
