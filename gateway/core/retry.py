"""When a request may be tried again, and which answers of Triton say "not here" rather than "no".

The whole request must still be held, nothing of the response may have been passed on, and it must not belong to a
sequence. Source of the texts: Triton's infer path while it unloads models on exit (server issues 6230 and 6939).
"""

from enum import Enum, auto


class Answer(Enum):
    """What a backend's answer means for the next step."""

    FINAL = auto()  # pass it on
    ELSEWHERE = auto()  # this replica cannot serve, another may


_NOT_READY = b"not at ready state"
_ELSEWHERE_503 = (b"Server exiting", b"Server not ready", _NOT_READY, b"Server is stopping")
_ELSEWHERE_400 = (b"unknown model", b"is not found", b"has no available versions")
_WELL_503 = (b"Exceeds maximum queue size", b"Request timeout expired", _NOT_READY)
_LACKS = (b"Request for unknown model", _NOT_READY)
_CLIENTS_500 = (b"failed to parse the request JSON buffer", b"Unable to parse '")
_LOOK = 4096
_SHARE = 0.2
_PER_S = 10.0
_WINDOW_S = 10.0


def blames_client(status: int, body: bytes) -> bool:
    """Whether a 500 of Triton says that the request itself is malformed.

    Triton answers what its JSON parser refuses with 500; counted as the backend's failure, a client could eject
    backends and turn judges against a variant by sending nonsense.
    """
    return status == 500 and any(text in body[:_LOOK] for text in _CLIENTS_500)


def blames_backend(status: int, body: bytes) -> bool:
    """Whether an answer counts towards its backend's ejection.

    Not the 503 of a Triton that is well: its queue is full (one replica less would fill those of the others), the time
    is over that the request itself gave to the queue, or somebody has unloaded this one model.
    """
    if status < 500 or status == 501 or blames_client(status, body):
        return False
    return status != 503 or not any(text in body[:_LOOK] for text in _WELL_503)


def lacks_model(body: bytes) -> bool:
    """Whether an error answer says that its backend does not have the model.

    It comes at once, so that balancing by load would prefer that backend to those that work.
    """
    return any(text in body[:_LOOK] for text in _LACKS)


def classify(status: int, body: bytes, alternatives: int) -> Answer:
    """Reads an error answer of Triton.

    Args:
        status: its HTTP status.
        body: its body (only the first bytes matter).
        alternatives: other available backends; a 400 or 404 about an unknown model is the client's own error unless
            another replica may know the model, because a Triton that shuts down forgets its models first.
    """
    if status == 503:
        look = body[:_LOOK]
        return Answer.ELSEWHERE if any(text in look for text in _ELSEWHERE_503) else Answer.FINAL
    if status in {400, 404} and alternatives > 0:
        look = body[:_LOOK]
        return Answer.ELSEWHERE if any(text in look for text in _ELSEWHERE_400) else Answer.FINAL
    return Answer.FINAL


class RetryBudget:
    """Retries allowed now: a share of the requests of the last seconds and a few more (Finagle's and Linkerd's budget).

    A backend that dies may take a fifth of ten seconds' requests with it, all at once, and each gets another attempt;
    when everything fails for longer, retries add no more than the share to the load. Envoy's budget, a share of the
    requests in flight, would fail most of those that a dead backend held.
    """

    __slots__ = ("_left", "_requests", "_then")

    def __init__(self, now: float) -> None:
        self._left = _PER_S * _WINDOW_S
        self._requests = 0
        self._then = now

    def refill(self, now: float, requests: int) -> None:
        """Called about once a second with the number of requests ever taken (it may fall when counters are dropped)."""
        elapsed = min(now - self._then, _WINDOW_S)
        fresh = max(requests - self._requests, 0)
        self._then, self._requests = now, requests
        self._left = self._left * (1 - elapsed / _WINDOW_S) + fresh * _SHARE + elapsed * _PER_S

    def take(self) -> bool:
        """Spends one retry, if there is one left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def within_budget(retrying: int, in_flight: int, share: float = 0.2, at_least: int = 3) -> bool:
    """Whether one more hedge may start: those in flight stay below a share of all requests (Envoy's budget)."""
    return retrying < max(at_least, int(in_flight * share))
