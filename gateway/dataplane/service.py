"""What all connections of a worker share: the table in service, limits, counters, and the way into the data plane."""

import asyncio
import math
import os
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Protocol

from gateway import errors
from gateway.config import Config
from gateway.core.retry import RetryBudget
from gateway.core.route import RouteTable
from gateway.core.v2body import with_queue_timeout
from gateway.dataplane import sweep
from gateway.dataplane.affinity import Affinity, SequenceStep
from gateway.dataplane.answered import ANSWERED
from gateway.dataplane.deadlines import Deadlines
from gateway.dataplane.evidence import Sampler
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.gate import Gate
from gateway.dataplane.gather import Gathering
from gateway.dataplane.local import LocalExchange
from gateway.dataplane.mirror import Mirror
from gateway.dataplane.plan import InferPlan, LocalPlan, Plan, decide
from gateway.dataplane.pool import BackendRuntime, PoolRuntime, Pools
from gateway.dataplane.principal import Principal
from gateway.dataplane.probe import Prober
from gateway.dataplane.table import Counters, RouteState, Table, VariantRuntime
from gateway.dataplane.tlsfiles import ListenerTls
from gateway.dataplane.waiting import Waiting, next_in_line, refuse, refuse_unread
from gateway.errors import Blame, Fault
from gateway.http import serving
from gateway.http.client import UpstreamConnection
from gateway.http.connection import ClientConnection
from gateway.http.head import VARYING, Heads, RequestHead
from gateway.http.partial import Partial
from gateway.http.reply import error_body, reply
from gateway.rates import RateTable
from gateway.sequences import SequenceTable
from gateway.telemetry.access import AccessLog
from gateway.telemetry.records import NewKeys


class Caller(Protocol):
    """Somebody who waits for a connection to a backend."""

    def connected(self, backend: BackendRuntime, upstream: UpstreamConnection) -> None:
        """It is there."""

    def connect_failed(self, backend: BackendRuntime) -> None:
        """It could not be made."""


_CHALLENGE = b"WWW-Authenticate: Bearer\r\n"  # a 401 must say what would do (RFC 9110 section 15.5.2)


def _depends_on_ids(plan: Plan) -> bool:
    """Whether the same head with other ids may have to be decided otherwise."""
    return isinstance(plan, InferPlan) and not plan.route.reads.isdisjoint(VARYING)


class DataPlane:
    """Serves one table at a time.

    Attributes:
        table: the generation in service.
        ready: a table was published and the gateway is not about to end.
        access: gets a line for a sample of requests; None when none is wanted.
        draining: connections close after their present exchange.
        leaving: the whole gateway is about to end, not only this worker.
        in_flight: exchanges that hold a slot, lingering ones included.
        buffered: bytes of bodies held in memory for retries, copies and backends that are not connected yet.
        retrying: exchanges in flight that have been tried more than once.
        copied: bytes held for copies; they have a bound of their own, so that a hung shadow sheds no request.
        lines: routes whose requests wait for a slot.
        over_memory: the worker's memory is above its ceiling.
        local_in_flight: requests that the gateway answers itself by asking backends.
        new_exchange: makes exchanges; tracing puts its own way here.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        sequences: SequenceTable,
        rates: RateTable | None = None,
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.loop = loop
        self.heads = Heads(config.limits)
        self.partial = Partial(config.limits.max_buffered_bytes)
        self.connections: set[ClientConnection] = set()
        self.accepted = 0
        self.draining = False
        self.idle_grace_s = config.limits.drain_idle_s
        self.leaving = False
        self.deadlines = Deadlines(loop)
        self.counters = Counters()
        self.mirror = Mirror(self)
        self.sampler = Sampler()
        self.affinity = Affinity(self, sequences)
        self.in_flight = 0
        self.max_in_flight = config.limits.max_in_flight
        self.buffered = 0
        self.max_buffered = config.limits.max_buffered_bytes
        self.copied = 0
        self.max_copied = self.max_buffered // 4
        self.local_in_flight = 0
        self.lines: dict[RouteState, None] = {}
        self.over_memory = False
        self._arrivals = 0
        self._giving = False
        self.retries = 0
        self.retrying = 0
        self.retry_budget = RetryBudget(perf_counter())
        self.access: AccessLog | None = None
        self.new_exchange: Callable[..., Exchange] = Exchange
        self.listener_tls = ListenerTls(config.listen.tls)
        self.gate = Gate(config.auth, rates) if config.auth.required and rates is not None else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._states: dict[str, RouteState] = {}
        self._prober = Prober(self)
        self.pools = Pools(self.heads, config.limits.max_response_head_bytes, self._prober)
        self.shadow_pools = Pools(self.heads, config.limits.max_response_head_bytes, self._prober)
        self._id_prefix = os.urandom(8).hex().encode()
        self._ids = 0
        self.table = Table(RouteTable(), self.pools, self.shadow_pools, self.counters, self._states)

    @property
    def ready(self) -> bool:
        """Whether clients should send requests here."""
        return (
            not self.leaving
            and self.table.generation > 0
            and (not self.pools.by_name or any(pool.healthy for pool in self.pools.by_name.values()))
        )

    def publish(self, published: RouteTable) -> bool:
        """Serves a newer generation from the next request on; False when it is not newer."""
        if published.generation <= self.table.generation:
            return False
        self.table = Table(published, self.pools, self.shadow_pools, self.counters, self._states)
        self.heads.requests.clear()  # remembered plans belong to the old generation
        for name in [name for name, state in self._states.items() if name not in self.table.routes and state.idle]:
            del self._states[name]
        self._prober.learn(self.table)
        return True

    # http.serving.Service

    def opened(self, connection: ClientConnection) -> None:
        """A client connected."""
        self.connections.add(connection)
        self.accepted += 1

    def closed(self, connection: ClientConnection) -> None:
        """Its connection ended."""
        self.connections.discard(connection)

    def begin(self, connection: ClientConnection, head: RequestHead, body: bytes | None) -> serving.Exchange:
        """Takes a request to where its plan says."""
        plan = head.plan or self._decide(head)
        if type(plan) is InferPlan:
            route = plan.route
            if plan.principal is not None and self._over_rate(connection, head, plan.principal, route.name):
                return ANSWERED
            state = route.state
            if (
                state.line.full
                and (state in self.lines or state.in_flight >= state.limit or self.in_flight >= self.max_in_flight)
                and body is not None
                and refuse_unread(self, connection, head, plan, body)
            ):
                return ANSWERED
            if not route.stateless or route.config.triton_timeout:
                return self._begin_read(connection, head, plan, body)
            variant = plan.fixed or route.random_variant()
            if state.in_flight >= state.limit or self.in_flight >= self.max_in_flight or state in self.lines:
                return self._wait(connection, head, plan, variant, body)
            exchange = self.new_exchange(self, connection, head, plan, variant, body, None)
            exchange.start()
            return exchange
        if type(plan) is LocalPlan:
            if plan.principal is not None and self._over_rate(connection, head, plan.principal, ""):
                return ANSWERED
            local = LocalExchange(self, connection, plan, body)
            local.start()
            return local
        assert isinstance(plan, Fault)
        self.answer_fault(connection, plan, "", head.request_id)
        return ANSWERED

    def _over_rate(self, connection: ClientConnection, head: RequestHead, who: Principal, route: str) -> bool:
        """Spends one request of a principal's rate; True when it was refused and answered."""
        wait_s = who.limit.take() if who.limit is not None else 0.0
        if wait_s:
            self.answer_fault(connection, errors.RATE_LIMITED, route, head.request_id, math.ceil(wait_s))
        return wait_s > 0

    def _begin_read(
        self, connection: ClientConnection, head: RequestHead, plan: InferPlan, body: bytes | None
    ) -> serving.Exchange:
        """Begins a request whose body says where it must go, or is to be changed."""
        if body is None:
            bound = self.limits.max_gathered_bytes
            gathering = Gathering(connection, head, plan, bound, self.claim, self._begin_read, self.answer_fault)
            gathering.start()
            return gathering
        step = self.affinity.resolve(plan, head, body)
        if isinstance(step, Fault):
            self.answer_fault(connection, step, plan.route.name, head.request_id)
            return ANSWERED
        variant = step.variant if step is not None else plan.fixed or plan.route.random_variant()
        line = b""
        if plan.route.config.triton_timeout:
            body, line = self._with_timeout(head, body, int(plan.timeout_s * 1e6))
        state = plan.route.state
        if state.in_flight >= state.limit or self.in_flight >= self.max_in_flight or state in self.lines:
            return self._wait(connection, head, plan, variant, body, step, line)
        exchange = self.new_exchange(self, connection, head, plan, variant, body, step, line)
        exchange.start()
        return exchange

    def _wait(
        self,
        connection: ClientConnection,
        head: RequestHead,
        plan: InferPlan,
        variant: VariantRuntime,
        body: bytes | None,
        step: SequenceStep | None = None,
        line: bytes = b"",
    ) -> serving.Exchange:
        """Lets a request wait for a slot, or turns it away."""
        if refuse(self, connection, head, plan, variant, body, step):
            return ANSWERED
        waiting = Waiting(self, connection, head, plan, variant, body, step, line)
        waiting.start()
        return waiting

    def next_in_line(self) -> None:
        """Gives slots that became free to those who wait."""
        if not self._giving:  # a request that fails at once frees its slot while slots are being given
            self._giving = True
            next_in_line(self, self.lines)
            self._giving = False

    def next_arrival(self) -> int:
        """A number that grows with every request that has to wait."""
        self._arrivals += 1
        return self._arrivals

    @property
    def full(self) -> Fault:
        """Why a request finds no slot now."""
        if self.over_memory:
            return errors.SHED_MEMORY
        return errors.SHED_WORKER if self.in_flight >= self.max_in_flight else errors.SHED_ROUTE

    def weigh(self, rss_bytes: int) -> None:
        """Sheds new inferences while the worker's memory is above its ceiling."""
        ceiling = self.limits.max_rss_bytes
        self.over_memory = 0 < ceiling < rss_bytes
        self.max_in_flight = 0 if self.over_memory else self.limits.max_in_flight

    @staticmethod
    def _with_timeout(head: RequestHead, body: bytes, timeout_us: int) -> tuple[bytes, bytes]:
        """A body with Triton's queue timeout set, and its header length as a field; compressed ones stay."""
        length = head.header_length
        if b"content-encoding" not in head.fields:
            json = with_queue_timeout(body if length < 0 else body[:length], timeout_us)
            body, length = (json, -1) if length < 0 else (json + body[length:], len(json))
        return body, b"" if length < 0 else b"Inference-Header-Content-Length: %d\r\n" % length

    def claim(self, size: int) -> bool:
        """Counts bytes of bodies held in memory (negative ones are let go); False when the bound is reached."""
        if size > 0 and self.buffered + size > self.max_buffered:
            return False
        self.buffered += size
        return True

    def claim_spare(self, size: int) -> bool:
        """The same for bytes that are kept without need: they leave half of the bound to requests that must be held."""
        if size > 0 and self.buffered + size > self.max_buffered // 2:
            return False
        self.buffered += size
        return True

    def refusal(self, head: RequestHead) -> Fault | None:
        """Why a request would be refused whatever its body, if so."""
        plan = head.plan or self._decide(head)
        return plan if isinstance(plan, Fault) else None

    def _decide(self, head: RequestHead) -> Plan:
        """Decides for a head, and for all that differ from it in their ids only."""
        shared = head.shared
        plan: Plan | None = shared.plan if shared is not None else None
        if plan is None or _depends_on_ids(plan):
            plan = decide(head, self.table, self.gate)
            if shared is not None and not _depends_on_ids(plan):
                shared.plan = plan
        head.plan = plan
        return plan

    def fault_response(self, fault: Fault, connection_header: bytes, head_only: bool) -> bytes:
        """A complete response for a fault that belongs to no exchange; counts it."""
        self.count_fault("", fault)
        connection_header += _CHALLENGE if fault.status == 401 else b""
        connection_header += b"Retry-After: 1\r\n" if fault.blame is Blame.OVERLOAD else b""
        return reply(fault.status, error_body(fault.text), connection_header, head_only)

    def answer_fault(
        self, connection: ClientConnection, fault: Fault, route: str, request_id: bytes, retry_after_s: int = 1
    ) -> None:
        """Ends a connection's present exchange with a fault; counts it."""
        self.count_fault(route, fault)
        extra = b"x-request-id: %b\r\n" % request_id if request_id else b""
        if fault.blame is Blame.OVERLOAD or fault is errors.RATE_LIMITED:
            extra += b"Retry-After: %d\r\n" % retry_after_s
        elif fault.status == 401:
            extra += _CHALLENGE
        extra += connection.connection_header
        connection.finish(reply(fault.status, error_body(fault.text), extra, connection.head_only))

    def count_fault(self, route: str, fault: Fault) -> None:
        """Counts an answer that the gateway made itself."""
        faults = self.counters.faults
        key = (route, fault.code)
        faults[key] = faults.get(key, 0) + 1

    # services to exchanges

    def next_request_id(self) -> bytes:
        """A request id that no other worker or start of this one makes."""
        self._ids += 1
        return b"%b-%x" % (self._id_prefix, self._ids)

    def connect(self, caller: Caller, backend: BackendRuntime) -> None:
        """Opens a connection for somebody who holds a lease."""
        self.spawn(self._connect(caller, backend))

    async def _connect(self, caller: Caller, backend: BackendRuntime) -> None:
        try:
            upstream = await backend.connect()
        except (OSError, TimeoutError):
            caller.connect_failed(backend)
        else:
            caller.connected(backend, upstream)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine that is bounded by its own deadline."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # time

    def sweep(self, now: float) -> None:
        """Housekeeping, about once a second: slow clients and idle connections."""
        sweep.check(self.loop, list(self.connections))
        self.retry_budget.refill(now, sum(counts.assigned for counts in self.counters.variants.values()))
        self.pools.close_idle()
        self.shadow_pools.close_idle()
        self.renew()

    def renew(self, force: bool = False) -> None:
        """Takes in certificates and credentials whose files changed, or all of them."""
        self.listener_tls.renew(force)
        self.pools.renew_tls(force)
        self.shadow_pools.renew_tls(force)
        if self.gate is not None and self.gate.renew(force):
            self.heads.requests.clear()  # with the heads go the decisions about their credentials

    def take_new_keys(self) -> list[NewKeys]:
        """Sticky keys first seen since the last call, of every route."""
        return [keys for name, state in self._states.items() for keys in state.keys.take(name)]

    def put_back_new_keys(self, unsent: list[NewKeys]) -> None:
        """Takes back keys that could not be reported, for the next report."""
        for keys in unsent:
            self._states[keys.route].keys.put_back(keys)

    def drain(self, leaving: bool) -> None:
        """Connections close after their present exchange; not ready from now on if the whole gateway ends."""
        self.draining = True
        self.leaving |= leaving

    @property
    def pool_runtimes(self) -> list[PoolRuntime]:
        """All pools, the shadows' own ones last."""
        return [*self.pools.by_name.values(), *self.shadow_pools.by_name.values()]

    def close(self) -> None:
        """Cancels what still runs."""
        self._prober.close()
        for task in self._tasks:
            task.cancel()
