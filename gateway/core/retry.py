"""When a request may be tried again, and which answers of Triton say "not here" rather than "no".

The whole request must still be held, nothing of the response may have been passed on, and it must not belong to a
sequence. Source of the texts: Triton's infer path while it unloads models on exit (server issues 6230 and 6939).
"""

from enum import Enum, auto


class Answer(Enum):
    """What a backend's answer means for the next step."""

    FINAL = auto()  # pass it on
    ELSEWHERE = auto()  # this replica cannot serve, another may


_ELSEWHERE_503 = (b"Server exiting", b"Server not ready", b"not at ready state", b"Server is stopping")
_ELSEWHERE_400 = (b"unknown model", b"is not found", b"has no available versions")
_LOOK = 4096


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


def within_budget(retrying: int, in_flight: int, share: float = 0.2, at_least: int = 3) -> bool:
    """Whether one more retry may start: retries in flight stay below a share of all requests (Envoy's budget)."""
    return retrying < max(at_least, int(in_flight * share))
