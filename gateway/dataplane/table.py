"""The published table as a worker uses it: everything that can be computed once per generation is."""

from random import random
from typing import TYPE_CHECKING

from gateway import errors
from gateway.core.adaptive import AdaptiveLimit
from gateway.core.admission import Line
from gateway.core.pause import Pause
from gateway.core.retry import lacks_model
from gateway.core.route import Adaptive, Evidence, Route, RouteTable, Shadow, Variant
from gateway.core.split import pick, sticky_point, thresholds
from gateway.dataplane.evidence import Draw, Keys
from gateway.dataplane.pool import BackendRuntime, PoolRuntime, Pools
from gateway.errors import Fault
from gateway.http.head import RequestHead
from gateway.telemetry.records import ShadowCounts, VariantCounts

if TYPE_CHECKING:
    from gateway.dataplane.waiting import Waiting

_KEPT_EPOCHS = 3
_GONE = 1 << 62  # above every epoch: nothing of a route that is gone is kept


class RouteState:
    """What outlives a generation of a route.

    Attributes:
        in_flight: requests that hold a slot, lingering ones included.
        limit: how many may.
        line: requests that wait for a slot.
        adaptive: renews `limit` from latencies, where the route wants it.
        keys: sticky keys that were seen.
    """

    __slots__ = ("_adaptive_config", "adaptive", "in_flight", "keys", "limit", "line")

    def __init__(self) -> None:
        self.in_flight = 0
        self.limit = 0
        self.line: Line[Waiting] = Line()
        self.adaptive: AdaptiveLimit | None = None
        self.keys = Keys()
        self._adaptive_config: tuple[Adaptive | None, int] = (None, 0)

    def configure(self, route: Route) -> None:
        """Takes over a generation's settings; an adaptive limit goes on where it was if nothing of it changed."""
        self.line.resize(route.max_queued)
        if route.evidence is None:
            self.keys = Keys()  # the next rollout sees every key for the first time
        config = (route.adaptive, route.max_in_flight)
        if config != self._adaptive_config:
            self._adaptive_config = config
            self.limit = route.max_in_flight
            self.adaptive = None
            if route.adaptive is not None:
                self.adaptive = AdaptiveLimit(route.adaptive.lowest, self.limit, route.adaptive.window_s)

    @property
    def idle(self) -> bool:
        """Whether no request of the route is under way or waits."""
        return not self.in_flight and not self.line

    def observe(self, latency_s: float, now: float) -> None:
        """Takes in a good answer's latency."""
        if self.adaptive is not None and self.adaptive.observe(latency_s, self.in_flight, now):
            self.limit = self.adaptive.limit


class VariantRuntime:
    """A variant with its pool, its counters and the bytes that never change.

    Attributes:
        path: `/v2/models/M` or `/v2/models/M/versions/V`.
        stamp: response fields that say who answered.
        lacking: backends of the pool that do not have its model ready.
        sequences: whether its model keeps state over requests; None until its configuration is known.
        sequence_idle_s: after that long without a request Triton forgets a sequence.
    """

    __slots__ = (
        "config",
        "counts",
        "lacking",
        "path",
        "pinned_counts",
        "pool",
        "sequence_idle_s",
        "sequences",
        "stamp",
    )

    def __init__(self, route: Route, config: Variant, pool: PoolRuntime, counters: "Counters") -> None:
        self.config = config
        self.pool = pool
        self.counts = counters.variant(route, config.name, False)
        self.pinned_counts = counters.variant(route, config.name, True)
        self.path = f"/v2/models/{config.model}{f'/versions/{config.version}' if config.version else ''}".encode()
        self.stamp = f"x-sluice-route: {route.name}\r\nx-sluice-variant: {config.name}\r\n".encode()
        self.sequences: bool | None = None
        self.lacking: frozenset[BackendRuntime] = frozenset()
        self.sequence_idle_s = 1.0

    def failed_at(self, backend: BackendRuntime, body: bytes) -> None:
        """Leaves a backend alone that said it lacks the model, until all are asked again; if they ever are."""
        if self.pool.config.probe.models_interval_s and lacks_model(body):
            self.lacking |= {backend}


class ShadowRuntime:
    """A shadow with its own pool, so that nothing of it is shared with the primary.

    Attributes:
        pause: answers without end cost the worker time, which the primary's clients would have to wait for.
    """

    __slots__ = ("_mirrored", "chance", "config", "counts", "in_flight", "noise", "pause", "variant")

    def __init__(self, config: Shadow, mirrored: dict[str, VariantRuntime], counts: ShadowCounts) -> None:
        variant = mirrored[config.variant]
        self._mirrored = mirrored
        self.noise = config.noise / 100
        self.config = config
        self.variant = variant
        self.counts = counts
        self.chance = config.sample / 100
        self.in_flight = 0
        self.pause = Pause()

    def noise_variant(self, served_by: VariantRuntime) -> VariantRuntime:
        """The variant that served the original, on the shadows' own connections."""
        return self._mirrored[served_by.config.name]


class RouteRuntime:
    """A route ready to serve.

    Attributes:
        reads: request fields that decide which variant serves, names in lower case.
        stateless: no model behind it keeps state over requests, so that nobody has to look into bodies.
    """

    __slots__ = (
        "_bounds",
        "_matches",
        "_salt",
        "_sticky",
        "_variant_header",
        "by_name",
        "config",
        "draw",
        "epoch",
        "keys",
        "max_sampled_bytes",
        "name",
        "primary",
        "reads",
        "shadows",
        "slow_bin",
        "state",
        "stateless",
        "timeout_s",
        "variants",
    )

    def __init__(
        self, config: Route, variants: list[VariantRuntime], shadows: list[ShadowRuntime], state: RouteState
    ) -> None:
        self.config = config
        self.name = config.name
        self.state = state
        self.variants = variants
        self.shadows = shadows
        self.by_name = {variant.config.name: variant for variant in variants}
        self.primary = self.by_name[config.primary.name]
        self.epoch = config.epoch
        evidence = config.evidence
        self.draw = Draw(evidence) if evidence is not None and evidence.answers else None
        self.keys = state.keys if evidence is not None and evidence.keys and config.sticky_header else None
        self.max_sampled_bytes = (evidence or Evidence()).max_body_bytes
        self.slow_bin = evidence.slow_bin if evidence is not None else 0
        self.stateless = False
        self.timeout_s = config.timeout_s
        self._bounds = thresholds([variant.config.weight for variant in variants])
        self._salt = (config.salt or config.name).encode()
        self._sticky = config.sticky_header.lower().encode()
        self._variant_header = config.variant_header.lower().encode()
        self._matches = [
            (match.header.lower().encode(), match.value.encode(), self.by_name[match.variant])
            for match in config.matches
        ]
        self.reads = frozenset([self._sticky, self._variant_header, *(header for header, _, _ in self._matches)])

    def learned(self) -> None:
        """Renews `stateless` after something became known of a variant's model."""
        self.stateless = all(variant.sequences is False for variant in self.variants)

    def fixed_variant(self, head: RequestHead, version: str) -> VariantRuntime | Fault | None:
        """The variant that the head alone decides: by version, header, rule or sticky key; None means by chance."""
        if version:
            found = next((v for v in self.variants if v.config.version == version), None)
            return found or errors.UNKNOWN_VERSION.but(
                f"Request for unknown model: '{self.name}' version {version} is not found"
            )
        fields = head.fields
        if self._variant_header and (asked := fields.get(self._variant_header)) is not None:
            name = asked.decode("latin-1")
            return self.by_name.get(name) or errors.UNKNOWN_VARIANT.but(
                f"route '{self.name}' has no variant '{name}' (known: {', '.join(self.by_name)})"
            )
        for header, value, variant in self._matches:
            if fields.get(header) == value:
                return variant
        if key := self.key_of(head):
            return self.variants[pick(self._bounds, sticky_point(key, self._salt))]
        if len(self._bounds) == 1:
            return self.variants[self._bounds[0][1]]
        return None

    def drawn(self, head: RequestHead, version: str) -> bool:
        """Whether the split decides for this head (by chance or by sticky key), rather than the client or a rule."""
        fields = head.fields
        return not (
            version
            or (self._variant_header and self._variant_header in fields)
            or any(fields.get(header) == value for header, value, _ in self._matches)
        )

    def key_of(self, head: RequestHead) -> bytes | None:
        """The sticky key that a head carries, if the route is sticky."""
        return head.fields.get(self._sticky) if self._sticky else None

    def random_variant(self) -> VariantRuntime:
        """One variant drawn by weight."""
        point = random()
        for bound, i in self._bounds:
            if point < bound:
                return self.variants[i]
        raise AssertionError("the last bound is above one")


class Counters:
    """All counters of a worker by identity, so that a generation change loses none."""

    def __init__(self) -> None:
        self.variants: dict[tuple[str, str, int, bool], VariantCounts] = {}
        self.shadows: dict[tuple[str, str, int], ShadowCounts] = {}
        self.faults: dict[tuple[str, str], int] = {}

    def variant(self, route: Route, name: str, pinned: bool) -> VariantCounts:
        """The counters of one variant in the route's present epoch."""
        key = (route.name, name, route.epoch, pinned)
        if key not in self.variants:
            self.variants[key] = VariantCounts(route=route.name, variant=name, epoch=route.epoch, pinned=pinned)
        return self.variants[key]

    def forget(self, routes: tuple[Route, ...]) -> None:
        """Drops what belongs to no route any more, or to an epoch so old that its requests have all ended."""
        oldest = {route.name: route.epoch - _KEPT_EPOCHS for route in routes}
        for key in [key for key in self.variants if key[2] < oldest.get(key[0], _GONE)]:
            del self.variants[key]
        for shadow in [shadow for shadow in self.shadows if shadow[2] < oldest.get(shadow[0], _GONE)]:
            del self.shadows[shadow]

    def shadow(self, route: Route, name: str) -> ShadowCounts:
        """The counters of one shadow in the route's present epoch."""
        key = (route.name, name, route.epoch)
        return self.shadows.setdefault(key, ShadowCounts(route=key[0], variant=key[1], epoch=key[2]))


class Table:
    """A generation in service."""

    def __init__(
        self,
        published: RouteTable,
        pools: Pools,
        shadow_pools: Pools,
        counters: Counters,
        states: dict[str, RouteState],
    ) -> None:
        self.generation = published.generation
        self.judged = any(route.evidence is not None and route.evidence.judged for route in published.routes)
        self.routes: dict[str, RouteRuntime] = {}
        mirrored = {variant.pool for route in published.routes if route.shadows for variant in route.variants}
        pools.update(published.pools)
        shadow_pools.update(tuple(pool for pool in published.pools if pool.name in mirrored))
        for route in published.routes:
            variants = [
                VariantRuntime(route, variant, pools.by_name[variant.pool], counters) for variant in route.variants
            ]
            targets = {
                variant.name: VariantRuntime(route, variant, shadow_pools.by_name[variant.pool], counters)
                for variant in (route.variants if route.shadows else ())
            }
            shadows = [
                ShadowRuntime(shadow, targets, counters.shadow(route, shadow.variant)) for shadow in route.shadows
            ]
            state = states.setdefault(route.name, RouteState())
            state.configure(route)
            self.routes[route.name] = RouteRuntime(route, variants, shadows, state)
        counters.forget(published.routes)
