"""The admin API of rollouts: start, watch, command, feed with ground truth, look at shadow differences."""

from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import BaseModel, Field

from gateway.configfile import parse_json, policy_problems
from gateway.controlplane.api_models import ErrorBody
from gateway.controlplane.api_write import DryRun, Who, Why, read_body
from gateway.controlplane.control import Control
from gateway.controlplane.delivery.explain import RolloutBody, describe, verdict_body
from gateway.controlplane.delivery.record import Record
from gateway.controlplane.delivery.rollouts import Wish
from gateway.controlplane.delivery.wiring import Delivery
from gateway.core.rollout_policy import RolloutPolicy
from gateway.core.rollout_table import STAGED

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody},
    409: {"model": ErrorBody, "description": "refused: it does not fit the rollout's phase, or there is none"},
    422: {"model": ErrorBody},
    503: {"model": ErrorBody, "description": "the store failed"},
}
_POLICY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "a rollout policy, as under a route's key `rollout`"},
                "example": {"strategy": "canary", "steps": [{"weight": 5, "min_time_s": 60}, {"weight": 50}]},
            }
        },
    }
}
Verb = Literal["pause", "resume", "promote", "abort", "rollback"]
RouteName = Annotated[str, Path(max_length=200)]


class DecisionBody(BaseModel):
    """One decision with its reason; `verdict` is the evidence it rests on."""

    rollout: str
    seq: int
    at: float
    event: str
    before: str
    after: str
    stage: int
    reason: str
    verdict: dict[str, Any] | None


class Truth(BaseModel):
    """Ground truth for one request: `label`, or `labels` for a batch, one per row."""

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    label: int | str | None = None
    labels: list[int | str] | None = None


class FeedbackBody(BaseModel):
    """Ground truths of one route."""

    route: str
    truths: Annotated[list[Truth], Field(max_length=10_000)]


class FeedbackResult(BaseModel):
    """What became of them: `early` ones wait for their prediction a while; `mismatch` has another number of rows."""

    joined: int
    early: int
    mismatch: int


class AccuracyBody(BaseModel):
    """Share of a variant's joined answers that ground truth confirmed, since the controller started."""

    route: str
    variant: str
    correct: float
    wrong: float
    accuracy: float


def router(control: Control, plane: Delivery) -> APIRouter:
    """All endpoints of progressive delivery."""
    rollouts, desk, mender = plane.rollouts, plane.desk, plane.mender
    api = APIRouter(tags=["delivery"], responses=_ERRORS)

    def show(record: Record) -> RolloutBody:
        run = rollouts.runs.get(record.route)
        live = run if run is not None and run.record.id == record.id else None
        return describe(live.record if live else record, live.verdict if live else None)

    async def explain(record: Record) -> RolloutBody:
        """With the verdict that the last decision rests on, once nothing is judged any more."""
        shown = show(record)
        if shown.verdict is None and shown.phase not in STAGED:
            last = await control.run(rollouts.store.last_verdict, record.id)
            shown.verdict = verdict_body(last) if last is not None else None
        return shown

    async def find(name: str) -> Record:
        """By id, or the newest of a route."""
        record = await control.run(rollouts.store.get, name)
        if record is None:
            record = next(iter(await control.run(rollouts.store.latest, name, 1)), None)
        if record is None:
            raise HTTPException(404, f"there is no rollout {name!r}, nor one on a route of that name")
        return record

    @api.get("/rollouts")
    async def rollout_list(
        route: Annotated[str | None, Query(description="only of this route")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="of those that are over, the newest so many")] = 50,
    ) -> list[RolloutBody]:
        """Rollouts that are not over, then those that are, each newest first."""
        return [show(record) for record in await control.run(rollouts.store.latest, route, limit)]

    @api.get("/rollouts/{name}")
    async def rollout(name: str) -> RolloutBody:
        """One rollout by id, or the newest of the route of that name, with every gate's verdict explained."""
        return await explain(await find(name))

    @api.get("/rollouts/{name}/decisions")
    async def decisions(name: str, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> list[DecisionBody]:
        """What was decided, when and why; oldest first."""
        record = await find(name)
        found = await control.run(rollouts.store.decisions, record.id, limit)
        return [DecisionBody(**_plain(decision)) for decision in found]

    @api.post("/routes/{route}/rollout", openapi_extra=_POLICY, status_code=201)
    async def start(
        route: RouteName,
        request: Request,
        *,
        candidate: Annotated[str, Query(description="variant that shall get the traffic")] = "",
        who: Who = "api",
        why: Why = "",
        dry_run: DryRun = False,
    ) -> RolloutBody:
        """Starts a rollout with the policy in the body, the route's own, or the default."""
        body = await read_body(request)
        policy = parse_json(body, RolloutPolicy, policy_problems) if body else None
        wish = Wish(route=route, candidate=candidate, policy=policy, who=who, why=why)
        record = await rollouts.start(wish, dry_run=dry_run)
        return describe(record, await rollouts.judge(record)) if dry_run else show(record)

    @api.post("/routes/{route}/rollout/{verb}")
    async def command(
        route: RouteName,
        verb: Verb,
        *,
        who: Who = "api",
        why: Why = "",
        full: Annotated[bool, Query(description="promote: all traffic at once, ahead of the evidence")] = False,
        dry_run: DryRun = False,
    ) -> RolloutBody:
        """Pauses, resumes, promotes, aborts or rolls back the rollout on a route."""
        decision = await rollouts.command(route, verb, who=who, full=full, note=why, dry_run=dry_run)
        if dry_run:
            record = await find(route)
            return describe(replace(record, state=decision.state, because=decision.reason), decision.verdict)
        return await explain(await find(route))

    @api.post("/feedback")
    async def feedback(body: FeedbackBody) -> FeedbackResult:
        """Takes ground truth, joined to predictions by request id (`x-request-id` of the answer)."""
        return FeedbackResult(**desk.observe(body.route, [(t.request_id, _labels(t)) for t in body.truths]))

    @api.get("/accuracy")
    async def accuracy() -> list[AccuracyBody]:
        """Accuracy of each variant that ground truth has come for."""
        return [
            AccuracyBody(route=route, variant=variant, correct=c, wrong=w, accuracy=c / (c + w))
            for (route, variant), (c, w) in sorted(desk.accuracy.items())
        ]

    @api.get("/routes/{route}/diffs")
    async def diffs(route: RouteName, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> list[dict[str, Any]]:
        """Samples of copies whose answer was not the original's, newest first."""
        return [_plain(diff) for diff in await control.run(rollouts.store.diffs, route, limit)]

    @api.get("/drift")
    async def drift(
        mend: Annotated[bool, Query(description="compare now, and load what is missing")] = False,
    ) -> list[dict[str, Any]]:
        """Backends that lack a model which the table sends them requests for."""
        return [_plain(missing) for missing in (await mender.compare() if mend else mender.found)]

    return api


def _labels(truth: Truth) -> tuple[str, ...]:
    labels = truth.labels if truth.labels is not None else [truth.label] if truth.label is not None else []
    if not labels:
        raise HTTPException(422, f"request {truth.request_id!r}: give `label` or `labels`")
    return tuple(str(label) for label in labels)


def _plain(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = asdict(value)
    return found
