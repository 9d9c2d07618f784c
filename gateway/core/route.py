"""What a client names, what can serve it, and the immutable table the workers hold."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Len

from gateway.core import rollout_policy
from gateway.core.pool import STRICT, Pool
from gateway.core.rollout_policy import RolloutPolicy

Endpoint = Literal["repository", "shared_memory", "trace", "logging"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A model and version that a route can serve.

    Attributes:
        name: unique within the route; the value of the response header `x-sluice-variant`.
        model: name of the model in Triton.
        version: its version; empty leaves the choice to Triton's version policy.
        pool: name of the pool whose backends serve it.
        weight: share of the route's traffic in per cent; the weights of a route sum to 100.
    """

    __pydantic_config__: ClassVar = STRICT

    name: Annotated[str, Len(1, 100)]
    model: Annotated[str, Len(1, 200)]
    version: Annotated[str, Len(0, 20)] = ""
    pool: Annotated[str, Len(1, 100)] = "default"
    weight: Annotated[float, Ge(0), Le(100)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Sends a request straight to a variant when a header has a value.

    Attributes:
        header: name of the request header.
        value: the exact value.
        variant: name of the variant that then serves the request.
    """

    __pydantic_config__: ClassVar = STRICT

    header: Annotated[str, Len(1, 100)]
    value: Annotated[str, Len(0, 200)]
    variant: Annotated[str, Len(1, 100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A variant that receives copies of a sampled share of the route's inferences.

    Its answers never reach a client. It shares no queue, connection or limit with the primary.

    Attributes:
        variant: name of the route's variant that receives the copies.
        sample: share of the route's inferences that is copied, in per cent.
        max_in_flight: copies under way per worker; beyond it a copy is dropped and counted.
        max_body_bytes: larger requests are not copied, and counted as dropped.
        max_response_bytes: a longer answer ends the copy, counted as an error; after three in a row copies pause, from
            a second to a minute.
        timeout_s: a copy without a complete answer by then has failed.
        max_pending: while more requests than this wait inside Triton for the shadow's model, copies are dropped (needs
            the backend's `metrics_port`); 0 copies all the same.
        compare: send original and copy to the controller, which compares their tensors.
        noise: share of the copies, in per cent, that goes to the variant that served the original instead: what
            differs there is nondeterminism, not the candidate's fault.
    """

    __pydantic_config__: ClassVar = STRICT

    variant: Annotated[str, Len(1, 100)]
    sample: Annotated[float, Ge(0), Le(100)] = 100.0
    max_in_flight: Annotated[int, Ge(1), Le(10_000)] = 64
    max_body_bytes: Annotated[int, Ge(0), Le(1 << 30)] = 4 << 20
    max_response_bytes: Annotated[int, Ge(0), Le(1 << 30)] = 4 << 20
    timeout_s: Annotated[float, Gt(0), Le(3600)] = 5.0
    max_pending: Annotated[int, Ge(0), Le(1_000_000)] = 16
    compare: bool = False
    noise: Annotated[float, Ge(0), Le(100)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a worker collects beside its counts while a route is judged.

    Attributes:
        answers: share of the good answers, in per cent, whose bodies go to the controller (predictions, feedback).
        max_body_bytes: longer answers are not sent.
        max_per_s: bodies per route, worker and second, whatever the variant.
        keys: count sticky keys, because with stickiness the key is what was drawn, not the request.
        slow_bin: latency bucket above which a request of a key counts as slow.
        judged: a rollout judges the route, so workers report its counts several times a second.
    """

    __pydantic_config__: ClassVar = STRICT

    answers: Annotated[float, Ge(0), Le(100)] = 0.0
    max_body_bytes: Annotated[int, Ge(0), Le(16 << 20)] = 256 << 10
    max_per_s: Annotated[int, Ge(1), Le(100_000)] = 500
    keys: bool = False
    slow_bin: Annotated[int, Ge(0)] = 1_000_000
    judged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Where an answer holds its prediction, so that ground truth can be joined to it.

    Attributes:
        output: name of the output tensor.
        kind: `argmax` over the last axis, or `label` for the class itself.
        sample: share of the good answers whose prediction is remembered, per cent.
    """

    __pydantic_config__: ClassVar = STRICT

    output: Annotated[str, Len(1, 200)]
    kind: Literal["argmax", "label"] = "argmax"
    sample: Annotated[float, Gt(0), Le(100)] = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """A concurrency limit that follows latency, below the route's `max_in_flight`.

    Attributes:
        lowest: the limit never falls below this, per worker.
        window_s: how often it is renewed.
    """

    __pydantic_config__: ClassVar = STRICT

    lowest: Annotated[int, Ge(1), Le(100_000)] = 4
    window_s: Annotated[float, Ge(0.01), Le(60)] = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One stable name and what stands behind it.

    Attributes:
        name: what clients put where Triton expects a model name.
        variants: the candidates for a request.
        stable: name of the variant that answers for metadata; the first one when empty.
        sticky_header: requests with equal values of this header get the same variant while weights stay.
        salt: decorrelates the sticky assignment of routes; the route's name when empty.
        variant_header: request header that names a variant outright; empty turns it off.
        matches: rules tried in order before the split.
        shadows: copies of traffic.
        timeout_s: deadline of a request over all its attempts; clients may only shorten it.
        triton_timeout: also write the remaining time into Triton's queue `timeout` parameter.
        max_in_flight: requests under way per worker; beyond it the route sheds.
        adaptive: let the limit follow latency; None keeps it at `max_in_flight`.
        max_queued: requests per worker that may wait for a slot; beyond it the route sheds. 0 sheds at once.
        queue_timeout_s: a request that has waited so long is shed; its deadline holds all the same.
        retries: further attempts, on another backend where there is one, when the first gave no answer or said that the
            model is not there. 0 where a model must not run twice for one request.
        hedge_after_s: start a second attempt on another backend when the first has not answered by then, and take
            the faster answer; 0 turns it off. Choose about the route's p95 (never for models with side effects).
        scrub_errors: take file paths out of the backends' error texts.
        expose: endpoint families, closed by default, that this route's owner opens on the data plane.
        predictions: where answers hold predictions, for feedback; a drift gate's output serves where this is missing.
        rollout: how a new version is rolled out on this route when nothing else is said at its start.
        evidence: what is collected beside the counts; a rollout or a feedback gate sets it.
        epoch: evidence is counted per epoch; a rollout raises it at each step. Zero in files.
    """

    __pydantic_config__: ClassVar = STRICT

    name: Annotated[str, Len(1, 200)]
    variants: Annotated[tuple[Variant, ...], Len(1, 100)]
    stable: str = ""
    sticky_header: Annotated[str, Len(0, 100)] = ""
    salt: Annotated[str, Len(0, 100)] = ""
    variant_header: Annotated[str, Len(0, 100)] = "x-sluice-variant"
    matches: Annotated[tuple[Match, ...], Len(0, 100)] = ()
    shadows: Annotated[tuple[Shadow, ...], Len(0, 10)] = ()
    timeout_s: Annotated[float, Gt(0), Le(86_400)] = 60.0
    triton_timeout: bool = False
    max_in_flight: Annotated[int, Ge(1), Le(1_000_000)] = 4096
    adaptive: Adaptive | None = None
    max_queued: Annotated[int, Ge(0), Le(100_000)] = 128
    queue_timeout_s: Annotated[float, Gt(0), Le(3600)] = 1.0
    retries: Annotated[int, Ge(0), Le(5)] = 1
    hedge_after_s: Annotated[float, Ge(0), Le(3600)] = 0.0
    scrub_errors: bool = True
    expose: Annotated[tuple[Endpoint, ...], Len(0, 4)] = ()
    predictions: Predictions | None = None
    rollout: RolloutPolicy | None = None
    evidence: Evidence | None = None
    epoch: Annotated[int, Ge(0)] = 0

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, if the route has it."""
        return next((variant for variant in self.variants if variant.name == name), None)

    @property
    def primary(self) -> Variant:
        """The variant that answers for the route where only one can: metadata, config."""
        return (self.variant(self.stable) if self.stable else None) or self.variants[0]

    @property
    def served(self) -> tuple[Variant, ...]:
        """Variants that requests or copies go to without being asked for by name."""
        named = {match.variant for match in self.matches} | {shadow.variant for shadow in self.shadows if shadow.sample}
        return tuple(variant for variant in self.variants if variant.weight > 0 or variant.name in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Contents of routes.yaml: all that `sluice apply` changes live."""

    __pydantic_config__: ClassVar = STRICT

    routes: Annotated[tuple[Route, ...], Len(0, 10_000)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """What the controller publishes and a worker serves: immutable, numbered, complete in itself."""

    generation: int = 0
    routes: tuple[Route, ...] = ()
    pools: tuple[Pool, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Problem:
    """One contradiction between values that are each valid: where (path of keys and indices) and what."""

    where: tuple[str | int, ...]
    what: str


_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAME = frozenset("-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _duplicates(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def _route_problems(route: Route, pools: frozenset[str]) -> Iterable[Problem]:
    if not set(route.name) <= _NAME or route.name in {".", ".."}:
        yield Problem(("name",), f"route name {route.name!r} may only use letters, digits and - . _ ~")
    for name in _duplicates(variant.name for variant in route.variants):
        yield Problem(("variants",), f"variant {name!r} appears twice")
    names = {variant.name for variant in route.variants}
    for i, variant in enumerate(route.variants):
        where = ("variants", i)
        if not set(variant.name) <= _NAME:
            yield Problem((*where, "name"), f"variant name {variant.name!r} may only use letters, digits and - . _ ~")
        if not set(variant.model) <= _NAME or variant.model in {".", ".."}:
            yield Problem((*where, "model"), f"model name {variant.model!r} may only use letters, digits and - . _ ~")
        if variant.version and not (variant.version.isascii() and variant.version.isdigit()):
            yield Problem((*where, "version"), f"version {variant.version!r} is not a whole number")
        if variant.pool not in pools:
            known = ", ".join(sorted(pools)) or "none"
            yield Problem((*where, "pool"), f"pool {variant.pool!r} does not exist (known: {known})")
    total = sum(variant.weight for variant in route.variants)
    if abs(total - 100) > 1e-6:
        yield Problem(("variants",), f"weights of route {route.name!r} sum to {total:g}, not 100")
    if route.stable and route.stable not in names:
        yield Problem(("stable",), f"variant {route.stable!r} does not exist in route {route.name!r}")
    for key in ("sticky_header", "variant_header"):
        if not set(getattr(route, key)) <= _TOKEN:
            yield Problem((key,), f"{getattr(route, key)!r} is not a header name")
    for i, match in enumerate(route.matches):
        if not set(match.header) <= _TOKEN:
            yield Problem(("matches", i, "header"), f"{match.header!r} is not a header name")
        if match.variant not in names:
            yield Problem(("matches", i, "variant"), f"variant {match.variant!r} does not exist in this route")
    for i, shadow in enumerate(route.shadows):
        if shadow.variant not in names:
            yield Problem(("shadows", i, "variant"), f"variant {shadow.variant!r} does not exist in this route")
    if route.rollout is not None:
        for key, what in rollout_policy.problems(route.rollout):
            path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
            yield Problem(("rollout", *path), what)
        accuracy, drift = route.rollout.gates.accuracy, route.rollout.gates.drift
        if accuracy is not None and route.predictions is None and (drift is None or drift.kind == "score"):
            what = "ground truth has nothing to be compared with; set `predictions` on the route"
            yield Problem(("rollout", "gates", "accuracy"), what)


def problems(routes: tuple[Route, ...], pools: tuple[Pool, ...]) -> list[Problem]:
    """All contradictions of a set of routes with itself and with the pools; empty when it can be published."""
    found = [Problem(("routes",), f"route {name!r} appears twice") for name in _duplicates(r.name for r in routes)]
    known = frozenset(pool.name for pool in pools)
    for i, route in enumerate(routes):
        found += [Problem(("routes", i, *p.where), p.what) for p in _route_problems(route, known)]
    return found
