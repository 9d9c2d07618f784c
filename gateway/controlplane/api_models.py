"""What the admin API answers, for its OpenAPI description."""

from typing import Any

from pydantic import BaseModel

from gateway.core.pool import Pool
from gateway.core.route import Route

ROUTES_EXAMPLE: dict[str, Any] = {
    "routes": [
        {
            "name": "digits",
            "sticky_header": "x-user",
            "variants": [
                {"name": "v1", "model": "digits", "version": "1", "weight": 90},
                {"name": "v2", "model": "digits", "version": "2", "weight": 10},
            ],
            "shadows": [{"variant": "v2", "sample": 5}],
        }
    ]
}


class ErrorBody(BaseModel):
    """Every error: one message; `problems` has its lines where there are several."""

    error: str
    problems: list[str] = []


class RoutesBody(BaseModel):
    """The served routes and the generation they came with."""

    generation: int
    routes: tuple[Route, ...]


class OutcomeBody(BaseModel):
    """What an apply or a rollback did, or would do.

    Attributes:
        generation: the one that is served now.
        changed: false when the routes were already so.
        dry_run: nothing was changed because nothing should be.
        diff: unified diff of the routes as YAML.
        applied: slots of the workers that serve it.
        late: slots of connected workers that did not take it over in time.
    """

    generation: int
    changed: bool
    dry_run: bool
    diff: str
    applied: list[int]
    late: list[int]


class GenerationSummary(BaseModel):
    """One line of the history; `created` is Unix time."""

    number: int
    created: float
    who: str
    why: str
    kind: str
    current: bool


class GenerationBody(GenerationSummary):
    """One generation with its routes."""

    routes: tuple[Route, ...]


class AuditBody(BaseModel):
    """Who did what and when (Unix time)."""

    id: int
    at: float
    who: str
    action: str
    generation: int | None
    detail: str


class WorkerBody(BaseModel):
    """One worker slot; numbers are zero while it is not connected."""

    worker: int
    connected: bool
    pid: int = 0
    generation: int = 0
    starts: int = 0
    uptime_s: float = 0.0
    connections: int = 0
    in_flight: int = 0
    accepted: int = 0
    buffered_bytes: int = 0
    rss_bytes: int = 0
    draining: bool = False


class BackendBody(BaseModel):
    """One backend as the workers see it together; `states` counts workers by the state they see."""

    pool: str
    url: str
    states: dict[str, int]
    in_flight: int
    idle: int
    requests: int
    failures: int
    connects: int
    connect_failures: int
    ejections: int


class TableBody(BaseModel):
    """The published table: routes and pools."""

    generation: int
    routes: tuple[Route, ...]
    pools: tuple[Pool, ...]
