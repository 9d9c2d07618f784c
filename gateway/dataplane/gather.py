"""Requests whose body must be read before they can be placed: collected whole, within a bound, then served as usual."""

from collections.abc import Callable

from gateway import errors
from gateway.dataplane.plan import InferPlan
from gateway.errors import Fault
from gateway.http import serving
from gateway.http.connection import ClientConnection
from gateway.http.head import RequestHead


class Gathering:
    """Stands in for an exchange until its body is complete.

    Args:
        connection: the client.
        head: the request.
        plan: where it will go.
        bound: bytes that one request may have to be gathered.
        claim: counts bytes against the worker's bound; False when it is reached.
        begin: makes the exchange from the whole body.
        refuse: answers with a fault.
    """

    def __init__(
        self,
        connection: ClientConnection,
        head: RequestHead,
        plan: InferPlan,
        bound: int,
        claim: Callable[[int], bool],
        begin: Callable[[ClientConnection, RequestHead, InferPlan, bytes], serving.Exchange],
        refuse: Callable[[ClientConnection, Fault, str, bytes], None],
    ) -> None:
        self._connection: ClientConnection | None = connection
        self._head = head
        self._plan = plan
        self._bound = bound
        self._claim = claim
        self._begin = begin
        self._refuse = refuse
        self._parts: list[bytes] = []
        self._size = 0

    def start(self) -> None:
        """Refuses at once what is known to be too large."""
        if self._head.content_length > self._bound:
            self._give_up(errors.BODY_TOO_LARGE.but("request body too large to be read for its sequence or timeout"))

    def body_data(self, data: bytes | memoryview) -> None:
        """Keeps a slice."""
        if self._connection is None:
            return
        if self._size + len(data) > self._bound:
            self._give_up(errors.BODY_TOO_LARGE.but("request body too large to be read for its sequence or timeout"))
        elif not self._claim(len(data)):
            self._give_up(errors.SHED_MEMORY)
        else:
            self._size += len(data)
            self._parts.append(bytes(data))

    def body_end(self) -> None:
        """Hands over to the real exchange."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        body = b"".join(self._parts)
        self._let_go()
        connection.replace(self._begin(connection, self._head, self._plan, body))

    def body_failed(self, fault: Fault) -> None:
        """The rest will not come."""
        self._give_up(fault)

    def client_gone(self) -> None:
        """Nobody waits any more."""
        self._connection = None
        self._let_go()

    def client_paused(self, paused: bool) -> None:
        """Nothing is sent yet."""

    def _give_up(self, fault: Fault) -> None:
        connection, self._connection = self._connection, None
        self._let_go()
        if connection is not None:
            self._refuse(connection, fault, self._plan.route.name, self._head.request_id)

    def _let_go(self) -> None:
        self._parts.clear()
        self._claim(-self._size)
        self._size = 0
