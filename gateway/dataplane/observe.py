"""Counts how inferences end: plain integers of the variant, and sticky keys where a route is judged by them."""

from gateway import errors
from gateway.core.histogram import index
from gateway.dataplane.plan import InferPlan
from gateway.errors import Blame, Fault
from gateway.telemetry.records import Outcome, VariantCounts

# A member costs many times more to look up on its class than as a name of its own.
_OK, _SHED, _CLIENT_ERROR, _UPSTREAM_ERROR = Outcome.OK, Outcome.SHED, Outcome.CLIENT_ERROR, Outcome.UPSTREAM_ERROR
_OUTCOME_OF_BLAME = {
    Blame.CLIENT: Outcome.CLIENT_ERROR,
    Blame.OVERLOAD: Outcome.SHED,
    Blame.UPSTREAM: Outcome.UPSTREAM_ERROR,
    Blame.CONFIG: Outcome.UPSTREAM_ERROR,
}
_OUTCOME_OF_CODE = {
    errors.DEADLINE.code: Outcome.TIMEOUT,
    errors.CONNECT_FAILED.code: Outcome.CONNECT_ERROR,
    errors.NO_BACKEND.code: Outcome.CONNECT_ERROR,
}
_BAD_KEY = {
    Outcome.CLIENT_ERROR: "client",
    Outcome.UPSTREAM_ERROR: "server",
    Outcome.TIMEOUT: "server",
    Outcome.CONNECT_ERROR: "server",
    Outcome.SHED: "shed",
}


def outcome_of_fault(fault: Fault) -> Outcome:
    """What a fault made by the gateway counts as."""
    return _OUTCOME_OF_CODE.get(fault.code, _OUTCOME_OF_BLAME[fault.blame])


def assigned(counts: VariantCounts, plan: InferPlan) -> None:
    """A variant was given a request; nothing else has happened yet."""
    counts.assigned += 1
    if plan.route.keys is not None and plan.key:
        _see_key(counts, plan, "assigned")


def outcome_of(status: int, failed: bool) -> Outcome:
    """What an answer of a backend counts as; `failed` says that an error came inside a stream."""
    if failed or (status >= 500 and status != 501):
        return _UPSTREAM_ERROR
    return _CLIENT_ERROR if status >= 400 else _OK


def answered(
    counts: VariantCounts,
    plan: InferPlan,
    status: int,
    outcome: Outcome,
    *,
    total_s: float,
    upstream_s: float,
    request_bytes: int,
    response_bytes: int,
) -> None:
    """An answer of a backend reached the client whole."""
    statuses = counts.statuses
    statuses[status] = statuses.get(status, 0) + 1
    counts.outcomes[outcome] += 1
    counts.request_bytes += request_bytes
    counts.response_bytes += response_bytes
    if outcome is _OK:
        us = int(total_s * 1e6)
        bucket = index(us)
        counts.latency[bucket] += 1
        counts.latency_us += us
        counts.upstream_us += int(upstream_s * 1e6)
        if plan.route.keys is not None and plan.key and bucket > plan.route.slow_bin:
            _see_key(counts, plan, "slow")
    elif plan.route.keys is not None and plan.key:
        _see_key(counts, plan, _BAD_KEY[outcome])


def ended(counts: VariantCounts, plan: InferPlan, outcome: Outcome, after_s: float, request_bytes: int) -> None:
    """A request ended without a whole answer of a backend."""
    counts.outcomes[outcome] += 1
    counts.request_bytes += request_bytes
    if outcome is Outcome.TIMEOUT:
        us = int(after_s * 1e6)
        counts.latency[index(us)] += 1
        counts.latency_us += us
    if plan.route.keys is not None and plan.key and outcome in _BAD_KEY:
        _see_key(counts, plan, _BAD_KEY[outcome])


def shed(counts: VariantCounts, plan: InferPlan, request_bytes: int) -> None:
    """A variant was given a request that was turned away at once."""
    counts.assigned += 1
    counts.outcomes[_SHED] += 1
    counts.request_bytes += request_bytes
    if plan.route.keys is not None and plan.key:
        _see_key(counts, plan, "assigned")
        _see_key(counts, plan, "shed")


def _see_key(counts: VariantCounts, plan: InferPlan, check: str) -> None:
    if plan.route.keys is not None and not counts.pinned:  # a variant that was asked for was not drawn by the key
        plan.route.keys.see(check, counts.epoch, counts.variant, plan.key)
