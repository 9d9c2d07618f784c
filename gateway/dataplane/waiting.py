"""Requests that wait for a slot of their route: bounded, by priority, under their deadline.

A waiting request stands in for its exchange. Its variant is drawn already, so that those turned away count against
the variant they were meant for, as evidence needs.
"""

from time import perf_counter
from typing import TYPE_CHECKING

from gateway import errors
from gateway.core.v2body import priority_of
from gateway.dataplane import observe
from gateway.dataplane.affinity import SEQUENCE_MARK, SequenceStep
from gateway.dataplane.plan import InferPlan
from gateway.dataplane.table import RouteState, VariantRuntime
from gateway.errors import Blame, Fault
from gateway.http.connection import ClientConnection
from gateway.http.head import RequestHead
from gateway.http.reply import refusal
from gateway.telemetry.records import Outcome, VariantCounts

if TYPE_CHECKING:
    from gateway.dataplane.service import DataPlane

_PRIORITY = b"x-sluice-priority"
_OWN_PRIORITY = b'"priority"'


class Waiting:
    """One request in its route's line.

    Attributes:
        deadline: when it stops waiting, perf_counter seconds.
    """

    __slots__ = (
        "_arrived_at",
        "_body",
        "_complete",
        "_connection",
        "_head",
        "_header_line",
        "_parts",
        "_plan",
        "_sequence",
        "_service",
        "_size",
        "_variant",
        "deadline",
    )

    def __init__(
        self,
        service: "DataPlane",
        connection: ClientConnection,
        head: RequestHead,
        plan: InferPlan,
        variant: VariantRuntime,
        body: bytes | None,
        sequence: SequenceStep | None,
        header_line: bytes = b"",
    ) -> None:
        self._service = service
        self._connection: ClientConnection | None = connection
        self._head = head
        self._plan = plan
        self._variant = variant
        self._body = body
        self._sequence = sequence
        self._header_line = header_line
        self._arrived_at = now = perf_counter()
        self._parts: list[bytes] = []
        self._size = len(body) if body is not None else 0
        self._complete = body is not None
        self.deadline = now + min(plan.timeout_s, plan.route.config.queue_timeout_s)

    def start(self) -> None:
        """Joins the line, or is turned away at once."""
        service, state = self._service, self._plan.route.state
        if not service.claim(self._size):
            self._size = 0
            self._turn_away(service.full)
            return
        waits, left = state.line.join(self, priority(self._head, self._body), service.next_arrival())
        if left is not None:
            left.turned_away()
        if not waits:
            self._turn_away(service.full)
            return
        service.lines[state] = None
        service.deadlines.add(self)
        if self._body is None and self._connection is not None:
            self._connection.pause()

    def turn(self) -> None:
        """A slot is free: the exchange takes over. The line has let go of this request already."""
        connection, self._connection = self._connection, None
        self._let_go()
        assert connection is not None
        exchange = self._service.new_exchange(
            self._service,
            connection,
            self._head,
            self._plan,
            self._variant,
            self._body,
            self._sequence,
            self._header_line,
            self._arrived_at,
        )
        connection.replace(exchange)
        exchange.start()
        if self._body is None and connection.serves(exchange):
            connection.resume()
            for part in self._parts:
                exchange.body_data(part)
            if self._complete:
                exchange.body_end()

    # the request's body (serving.Exchange)

    def body_data(self, data: bytes | memoryview) -> None:
        """What was under way when reading was paused."""
        if self._connection is None:
            return
        if self._service.claim(len(data)):
            self._size += len(data)
            self._parts.append(bytes(data))
        else:
            self._turn_away(errors.SHED_MEMORY)

    def body_end(self) -> None:
        """The request is complete while it waits."""
        self._complete = True

    def body_failed(self, fault: Fault) -> None:
        """The rest of the request will not come."""
        self._turn_away(fault)

    def client_paused(self, paused: bool) -> None:
        """Nothing is sent yet."""

    # endings

    def turned_away(self) -> None:
        """Somebody of a higher priority took the place."""
        self._turn_away(errors.SHED_ROUTE)

    def on_deadline(self) -> None:
        """It has waited long enough."""
        over = perf_counter() - self._arrived_at >= self._plan.timeout_s
        self._turn_away(errors.DEADLINE if over else errors.SHED_ROUTE)

    def client_gone(self) -> None:
        """The client left while it waited."""
        self._connection = None
        self._count(Outcome.CANCELLED)
        self._leave()

    def _turn_away(self, fault: Fault) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._count(Outcome.SHED if fault.blame is Blame.OVERLOAD else observe.outcome_of_fault(fault))
        self._leave()
        self._service.answer_fault(connection, fault, self._plan.route.name, self._head.request_id)

    def _count(self, outcome: Outcome) -> None:
        plan = self._plan
        drawn = not plan.pinned and (self._sequence is None or self._sequence.start)
        counts = self._variant.counts if drawn else self._variant.pinned_counts
        observe.assigned(counts, plan)
        observe.ended(counts, plan, outcome, perf_counter() - self._arrived_at, self._size)

    def _leave(self) -> None:
        state = self._plan.route.state
        if state.line.leave(self) and not state.line:
            self._service.lines.pop(state, None)
        self._let_go()

    def _let_go(self) -> None:
        self._service.claim(-self._size)
        self._size = 0
        self._service.deadlines.discard(self)


def priority(head: RequestHead, body: bytes | None) -> int:
    """A request's priority: from the header, else from its own V2 parameter where the body is here."""
    named = head.fields.get(_PRIORITY, b"")
    if named.isdigit() and len(named) < 10:
        return int(named)
    if body is None or b"content-encoding" in head.fields:
        return 0
    length = head.header_length
    json = body if length < 0 else body[:length]
    return priority_of(json) if _OWN_PRIORITY in json else 0


def refuse(
    service: "DataPlane",
    connection: ClientConnection,
    head: RequestHead,
    plan: InferPlan,
    variant: VariantRuntime,
    body: bytes | None,
    sequence: SequenceStep | None,
) -> bool:
    """Turns a request away that would find no place in its line; False when it may wait."""
    line = plan.route.state.line
    if not service.over_memory and (not line.full or line.takes(priority(head, body))):
        return False
    counts = variant.counts if not plan.pinned and (sequence is None or sequence.start) else variant.pinned_counts
    _send_away(service, connection, head, plan, counts, len(body) if body is not None else 0)
    return True


def refuse_unread(
    service: "DataPlane", connection: ClientConnection, head: RequestHead, plan: InferPlan, body: bytes
) -> bool:
    """Turns a request away whose line is full, before anyone reads its body; False when the body has a say in it.

    Under overload this is what happens to most requests, so it does no more than count and answer.
    """
    end = head.header_length if head.header_length >= 0 else len(body)
    if _PRIORITY in head.fields or body.find(_OWN_PRIORITY, 0, end) >= 0 or body.find(SEQUENCE_MARK, 0, end) >= 0:
        return False
    variant = plan.fixed or plan.route.random_variant()
    _send_away(service, connection, head, plan, variant.pinned_counts if plan.pinned else variant.counts, len(body))
    return True


def _send_away(
    service: "DataPlane",
    connection: ClientConnection,
    head: RequestHead,
    plan: InferPlan,
    counts: VariantCounts,
    size: int,
) -> None:
    observe.shed(counts, plan, size)
    fault = errors.SHED_ROUTE if service.in_flight < service.max_in_flight else service.full
    service.count_fault(plan.route.name, fault)
    connection.finish(refusal(fault, head.request_id, connection.connection_header))


def next_in_line(service: "DataPlane", states: dict[RouteState, None]) -> None:
    """Gives free slots to those who wait; called when a slot was given back."""
    for state in list(states):
        while state.line and service.in_flight < service.max_in_flight and state.in_flight < state.limit:
            waiting = state.line.first()
            state.line.leave(waiting)
            waiting.turn()
        if not state.line:
            states.pop(state, None)
