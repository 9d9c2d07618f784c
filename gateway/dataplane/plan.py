"""What to do with a request, decided from its head alone and remembered with it."""

from hashlib import blake2b

from gateway import errors
from gateway.core.v2 import GUARDED, INFERENCES, METHODS, Endpoint, Target, parse_target
from gateway.dataplane.gate import CREDENTIAL_FIELDS, OPEN, Gate
from gateway.dataplane.principal import Principal
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
        key: hash of the sticky key, 0 without one.
        timeout_s: of the route, or shorter by the client's wish.
        hedge_after_s: wait for the first attempt before a second one starts beside it; 0 for never.
        stream: the answer may be a stream of events.
        principal: whose credential it carries; None where none is needed.
    """

    __slots__ = (
        "_action",
        "_fields",
        "_lines",
        "fixed",
        "hedge_after_s",
        "key",
        "pinned",
        "principal",
        "route",
        "stream",
        "timeout_s",
    )

    def __init__(
        self,
        route: RouteRuntime,
        target: Target,
        head: RequestHead,
        fixed: VariantRuntime | None,
        timeout_s: float,
        principal: Principal | None,
    ) -> None:
        self.route = route
        self.principal = principal
        self.fixed = fixed
        self.pinned = fixed is not None and not route.drawn(head, target.version)
        key = route.key_of(head)
        self.key = int.from_bytes(blake2b(key, digest_size=8).digest(), "little") if key else 0
        self.timeout_s = timeout_s
        self.hedge_after_s = 0.0 if target.endpoint is Endpoint.GENERATE_STREAM else route.config.hedge_after_s
        self.stream = target.endpoint is Endpoint.GENERATE_STREAM
        self._action = b"/" + target.endpoint.name.lower().encode() + target.query
        # With a queue timeout written into it, the JSON's length changes with every request.
        own = _OWN | {b"inference-header-content-length"} if route.config.triton_timeout else _OWN
        if principal is not None:
            own |= CREDENTIAL_FIELDS
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
        principal: whose credential it carries; None where none is needed.
    """

    __slots__ = ("method", "principal", "route", "target")

    def __init__(self, target: Target, method: bytes, route: RouteRuntime | None, principal: Principal | None) -> None:
        self.principal = principal
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


def decide(head: RequestHead, table: Table, gate: Gate | None = None) -> Plan:
    """Reads a head against a table: an inference, a local answer, or why not.

    Without a gate everyone may come in.
    """
    target = parse_target(head.target)
    if target is None:
        return errors.UNKNOWN_PATH
    principal: Principal | None = None
    if gate is not None and target.endpoint not in OPEN:
        found = gate.identify(head)
        if isinstance(found, Fault):
            return found
        # Before the route is looked up: who may not use it need not learn whether it exists.
        if target.endpoint is not Endpoint.SERVER and not found.may_use(target.model):
            return errors.FORBIDDEN_ROUTE
        principal = found
    if head.method not in METHODS[target.endpoint]:
        return errors.METHOD
    route: RouteRuntime | None = None
    if target.model:
        route = table.routes.get(target.model)
        if route is None:
            if not table.generation:
                return errors.NO_TABLE
            return errors.UNKNOWN_ROUTE.but(f"Request for unknown model: '{target.model[:200]}' is not found")
    family = GUARDED.get(target.endpoint)
    if family is not None:
        exposing = [route] if route is not None else list(table.routes.values())
        if not any(family in candidate.config.expose for candidate in exposing):
            return errors.FORBIDDEN
    if target.endpoint not in INFERENCES:
        return LocalPlan(target, head.method, route, principal)
    assert route is not None
    if head.content_length < 0 and not head.chunked:
        return errors.LENGTH_REQUIRED
    fixed = route.fixed_variant(head, target.version)
    if isinstance(fixed, Fault):
        return fixed
    timeout_s = _timeout(head, route)
    if isinstance(timeout_s, Fault):
        return timeout_s
    return InferPlan(route, target, head, fixed, timeout_s, principal)
