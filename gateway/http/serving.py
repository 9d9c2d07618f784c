"""What a client's connection and the data plane know of each other."""

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from gateway.config import Limits
from gateway.errors import Fault
from gateway.http.head import Heads, RequestHead
from gateway.http.partial import Partial

if TYPE_CHECKING:
    from gateway.http.connection import ClientConnection


class Phase(Enum):
    """Where a connection is."""

    IDLE = auto()  # between requests
    HEAD = auto()  # inside a head
    GATHER = auto()  # inside a small body that is handed over whole
    STREAM = auto()  # inside a body that is handed over in slices
    WAIT = auto()  # the request is complete, its response is not
    DRAIN = auto()  # the response is complete, its request is not: discard the rest
    LINGER = auto()  # nothing more is answered: discard what comes until the client has read the last answer
    CLOSED = auto()


# A member costs many times more to look up on its class than as a name of its own; these two stand on the hot path.
IDLE: Final = Phase.IDLE
WAIT: Final = Phase.WAIT

# Bytes that either side may leave unsent before the other is read no further; a slice more may come on top.
WRITE_HIGH: Final = 32 << 10


class Exchange(Protocol):
    """One request on its way through the data plane, as its connection sees it."""

    def body_data(self, data: bytes | memoryview) -> None:
        """A slice of the request's body, valid only during the call unless it is bytes."""

    def body_end(self) -> None:
        """The request is complete."""

    def body_failed(self, fault: Fault) -> None:
        """The rest of the request will not come (malformed or too slow); answer with the fault if still possible."""

    def client_gone(self) -> None:
        """The client closed its connection; nothing can be answered any more."""

    def client_paused(self, paused: bool) -> None:
        """The client's write buffer is above (True) or again below (False) its bound."""


class Service(Protocol):
    """What the connections of a worker share."""

    limits: Limits
    heads: Heads
    connections: "set[ClientConnection]"
    partial: Partial
    draining: bool
    idle_grace_s: float  # while draining: a connection without a request for so long is closed

    def begin(self, connection: "ClientConnection", head: RequestHead, body: bytes | None) -> Exchange:
        """Takes a request: complete with its body, or with slices to follow when `body` is None."""

    def refusal(self, head: RequestHead) -> Fault | None:
        """Why a request would be refused whatever its body, if so."""

    def fault_response(self, fault: Fault, connection_header: bytes, head_only: bool) -> bytes:
        """A complete response for a fault."""

    def opened(self, connection: "ClientConnection") -> None:
        """A client connected."""

    def closed(self, connection: "ClientConnection") -> None:
        """Its connection ended."""
