"""What to do with a request, decided from its head alone and remembered with it."""

from gateway import errors
from gateway.core.v2 import GUARDED, INFERENCES, METHODS, Endpoint, Target, parse_target
from gateway.dataplane.table import RouteRuntime, Table, VariantRuntime
from gateway.errors import Fault
from gateway.http.head import RequestHead

_MAX_TIMEOUT_MS = 86_400_000
# Fields the gateway writes itself, or that end here.
_OWN = frozenset({b"expect", b"x-request-id", b"content-length"})


class InferPlan:
    """A request for a model's answer.

    Attributes:
        route: who serves it.
        fixed: the variant when the head decides it, else None.
        pinned: `fixed` was asked for, not drawn (a sticky key's variant is drawn, by its hash).
        timeout_s: of the route, or shorter by the client's wish.
        stream: the answer may be a stream of events.
    """

    __slots__ = ("_action", "_fields", "_lines", "fixed", "pinned", "route", "stream", "timeout_s")

    def __init__(
        self, route: RouteRuntime, target: Target, head: RequestHead, fixed: VariantRuntime | None, timeout_s: float
    ) -> None:
        self.route = route
        self.fixed = fixed
        self.pinned = fixed is not None and not route.drawn(head, target.version)
        self.timeout_s = timeout_s
        self.stream = target.endpoint is Endpoint.GENERATE_STREAM
        self._action = b"/" + target.endpoint.name.lower().encode() + target.query
        # With a queue timeout written into it, the JSON's length changes with every request.
        own = _OWN | {b"inference-header-content-length"} if route.config.triton_timeout else _OWN
        self._fields = b"".join(
            b"%s: %s\r\n" % (name, value)
            for name, value in head.headers
            if (lower := name.lower()) not in own and not lower.startswith(b"x-sluice-")
        )
        self._lines: dict[VariantRuntime, bytes] = {}

    def lines(self, variant: VariantRuntime) -> bytes:
        """Request line and forwarded fields for a variant, without framing, Host and x-request-id."""
        lines = self._lines.get(variant)
        if lines is None:
            lines = b"POST " + variant.path + self._action + b" HTTP/1.1\r\n" + self._fields
            self._lines[variant] = lines
        return lines


class LocalPlan:
    """A request that the gateway answers for the route or for itself.

    Attributes:
        target: what is asked for.
        method: HTTP method.
        route: the route it names, if it names one.
    """

    __slots__ = ("method", "route", "target")

    def __init__(self, target: Target, method: bytes, route: RouteRuntime | None) -> None:
        self.target = target
        self.method = method
        self.route = route


Plan = InferPlan | LocalPlan | Fault


def _timeout(head: RequestHead, route: RouteRuntime) -> float | Fault:
    asked = head.fields.get(b"x-sluice-timeout-ms")
    if asked is None:
        return route.timeout_s
    if not asked.isdigit() or len(asked) > 9 or not 0 < int(asked) <= _MAX_TIMEOUT_MS:
        return errors.BAD_TIMEOUT
    return min(route.timeout_s, int(asked) / 1000)


def decide(head: RequestHead, table: Table) -> Plan:
    """Reads a head against a table: an inference, a local answer, or why not."""
    target = parse_target(head.target)
    if target is None:
        return errors.UNKNOWN_PATH
    if head.method not in METHODS[target.endpoint]:
        return errors.METHOD
    route: RouteRuntime | None = None
    if target.model:
        route = table.routes.get(target.model)
        if route is None:
            return errors.UNKNOWN_ROUTE.but(f"Request for unknown model: '{target.model[:200]}' is not found")
    family = GUARDED.get(target.endpoint)
    if family is not None:
        exposing = [route] if route is not None else list(table.routes.values())
        if not any(family in candidate.config.expose for candidate in exposing):
            return errors.FORBIDDEN
    if target.endpoint not in INFERENCES:
        return LocalPlan(target, head.method, route)
    assert route is not None
    if head.content_length < 0 and not head.chunked:
        return errors.LENGTH_REQUIRED
    fixed = route.fixed_variant(head, target.version)
    if isinstance(fixed, Fault):
        return fixed
    timeout_s = _timeout(head, route)
    if isinstance(timeout_s, Fault):
        return timeout_s
    return InferPlan(route, target, head, fixed, timeout_s)
