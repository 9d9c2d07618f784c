"""What is collected beside the counts while a route is judged: sampled answers, pairs with copies, sticky keys.

Nothing here decodes a tensor: bodies go to the controller as they are, which has the time for it. Bounds hold for
all variants of a route together; a bound per variant would bend the shares that the evidence is judged by.
"""

from random import random

from gateway.core.route import Evidence
from gateway.http.head import ResponseHead
from gateway.telemetry.records import Answer, NewKeys, Sample, VariantCounts

_MAX_QUEUED_BYTES = 16 << 20
_KEYS_PER_SECOND = 256
_MAX_KEYS = 200_000


class Sampler:
    """Samples of one worker until they are sent."""

    def __init__(self) -> None:
        self._queue: list[Sample] = []
        self._bytes = 0
        self._dropped = 0

    def add(self, sample: Sample) -> None:
        """Queues a sample, or counts it as dropped."""
        size = len(sample.original.body) + (len(sample.copy.body) if sample.copy is not None else 0)
        if self._bytes + size > _MAX_QUEUED_BYTES:
            self._dropped += 1
            return
        self._bytes += size
        self._queue.append(sample)

    def take(self) -> tuple[list[Sample], int]:
        """The queued samples and how many were dropped, since the last call."""
        taken = self._queue, self._dropped
        self._queue, self._bytes, self._dropped = [], 0, 0
        return taken

    def __bool__(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._queue) or self._dropped > 0


class Draw:
    """Decides which answers of a route are sampled, before anyone knows which variant gives them."""

    __slots__ = ("_chance", "_left", "_per_second", "_second", "max_body_bytes")

    def __init__(self, evidence: Evidence) -> None:
        self._chance = evidence.answers / 100
        self._per_second = evidence.max_per_s
        self._second = 0
        self._left = 0
        self.max_body_bytes = evidence.max_body_bytes

    def hit(self, now: float) -> bool:
        """One draw at a time in seconds."""
        if random() >= self._chance:
            return False
        if int(now) != self._second:
            self._second, self._left = int(now), self._per_second
        self._left -= 1
        return self._left >= 0


class Keys:
    """Sticky keys of one route that are new for a check; outlives epochs, as the keys' assignment does."""

    def __init__(self) -> None:
        self._seen: dict[str, set[int]] = {}
        self._new: dict[tuple[int, str, str], list[int]] = {}
        self._room: dict[str, int] = {}

    def see(self, check: str, epoch: int, variant: str, key: int) -> None:
        """Notes a key, unless it was seen in this check before or this second's room for the check is used up."""
        seen = self._seen.setdefault(check, set())
        room = self._room.get(check, _KEYS_PER_SECOND)
        if key in seen or room <= 0 or len(seen) >= _MAX_KEYS:
            return
        seen.add(key)
        self._room[check] = room - 1
        self._new.setdefault((epoch, variant, check), []).append(key)

    def take(self, route: str) -> list[NewKeys]:
        """What is new since the last call, which begins a new second."""
        self._room.clear()
        new, self._new = self._new, {}
        return [
            NewKeys(route=route, epoch=epoch, variant=variant, check=check, hashes=hashes)
            for (epoch, variant, check), hashes in new.items()
        ]

    def put_back(self, keys: NewKeys) -> None:
        """Takes back what could not be sent."""
        self._new.setdefault((keys.epoch, keys.variant, keys.check), []).extend(keys.hashes)


def answer(variant: str, head: ResponseHead, body: bytes) -> Answer:
    """A backend's answer as a record."""
    length = head.fields.get(b"inference-header-content-length", b"")
    return Answer(
        variant=variant,
        status=head.status,
        header_length=int(length) if length.isdigit() and len(length) < 10 else -1,
        encoding=head.fields.get(b"content-encoding", b"").decode("latin-1"),
        body=body,
    )


def sample(counts: VariantCounts, request_id: bytes, key: int, head: ResponseHead, body: bytes) -> Sample:
    """A good answer as a record; `counts` tells whose it was and how it was assigned."""
    return Sample(
        route=counts.route,
        epoch=counts.epoch,
        pinned=counts.pinned,
        request_id=request_id.decode("latin-1"),
        key=key,
        original=answer(counts.variant, head, body),
    )
