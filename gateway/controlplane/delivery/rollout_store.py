"""Rollouts, their decisions, their counted keys and the samples of shadow differences, in the controller's store."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from gateway.controlplane import schema
from gateway.controlplane.delivery.record import Record, WorkerMarks
from gateway.controlplane.store import Store
from gateway.core.evidence_state import Evidence
from gateway.core.rollout import Decision
from gateway.core.verdict import Verdict

KEEP_ROLLOUTS = 1000
KEEP_DIFFS = 200
Keys = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The part of a record that changes every second."""

    evidence: Evidence
    marks: dict[str, WorkerMarks]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """One line of a rollout's story."""

    rollout: str
    seq: int
    at: float
    event: str
    before: str
    after: str
    stage: int
    reason: str
    verdict: Verdict | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """One shadow's answer that was not the original's.

    Attributes:
        at: Unix time.
        request_id: of the request.
        original: variant that served the client.
        copy: variant that the copy went to.
        noise: the copy went to the variant that served the original.
        reason: what differs, in one sentence.
        output: the tensor.
        index: where in it.
        original_value: there.
        copy_value: there.
        deviation: absolute difference, or 1 - cosine.
        differing: share of the tensor that breaks its rule.
    """

    route: str
    at: float
    request_id: str
    original: str
    copy: str
    noise: bool
    reason: str
    output: str = ""
    index: tuple[int, ...] = ()
    original_value: str = ""
    copy_value: str = ""
    deviation: float = 0.0
    differing: float = 0.0


class RolloutStore:
    """Every method raises StoreError, as the store's own do, and belongs into the store's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def next_number(self) -> int:
        """A number that no rollout has had."""
        query = select(func.max(schema.rollouts.c.number))
        return self._store.read(lambda c: (c.execute(query).scalar() or 0) + 1)

    def create(self, record: Record, number: int) -> None:
        """Stores a new rollout."""

        def write(connection: Connection) -> None:
            row = {"id": record.id, "number": number, "route": record.route, "created": record.created}
            row |= _columns(record, record.created)
            connection.execute(insert(schema.rollouts).values(**row))
            _prune(connection)

        self._store.write(write)

    def save(self, record: Record, now: float, decision: Decision | None = None, keys: Sequence[Keys] = ()) -> None:
        """Stores a rollout's new state together with the decision that led to it, in one transaction."""

        def write(connection: Connection) -> None:
            table = schema.rollouts
            connection.execute(update(table).where(table.c.id == record.id).values(**_columns(record, now)))
            if decision is not None:
                connection.execute(insert(schema.decisions).values(**_decision_row(record, decision)))
            if keys:
                packed = msgspec.msgpack.encode(keys)
                connection.execute(insert(schema.rollout_keys).values(rollout=record.id, hashes=packed))
            if record.state.final:
                connection.execute(delete(schema.rollout_keys).where(schema.rollout_keys.c.rollout == record.id))

        self._store.write(write)

    def active(self) -> list[Record]:
        """Rollouts that are not over."""
        query = select(schema.rollouts).where(schema.rollouts.c.final.is_(False)).order_by(schema.rollouts.c.number)
        return self._store.read(lambda c: [_record(row) for row in c.execute(query).mappings()])

    def get(self, rollout: str) -> Record | None:
        """One rollout."""
        query = select(schema.rollouts).where(schema.rollouts.c.id == rollout)
        return next(iter(self._store.read(lambda c: [_record(row) for row in c.execute(query).mappings()])), None)

    def latest(self, route: str | None, limit: int) -> list[Record]:
        """Every rollout that is not over, then the newest `limit` of those that are; of one route or of all."""
        table = schema.rollouts
        found = select(table).order_by(table.c.number.desc())
        if route is not None:
            found = found.where(table.c.route == route)
        queries = found.where(table.c.final.is_(False)), found.where(table.c.final.is_(True)).limit(limit)
        return self._store.read(lambda c: [_record(row) for query in queries for row in c.execute(query).mappings()])

    def decisions(self, rollout: str, limit: int = 1000) -> list[StoredDecision]:
        """A rollout's decisions, oldest first; the newest `limit` of them."""
        table = schema.decisions
        query = select(table).where(table.c.rollout == rollout).order_by(table.c.seq.desc()).limit(limit)
        return self._store.read(lambda c: [_decision(row) for row in c.execute(query).mappings()])[::-1]

    def last_verdict(self, rollout: str) -> Verdict | None:
        """The verdict that a rollout's last decision on evidence rests on; None before there was one."""
        table = schema.decisions
        query = select(table.c.verdict).where(table.c.rollout == rollout, table.c.verdict.is_not(None))
        newest = query.order_by(table.c.seq.desc()).limit(1)
        packed = self._store.read(lambda c: c.execute(newest).scalar())
        return msgspec.msgpack.decode(packed, type=Verdict) if packed is not None else None

    def keys(self, rollout: str) -> list[Keys]:
        """The sticky keys counted so far."""
        table = schema.rollout_keys
        query = select(table.c.hashes).where(table.c.rollout == rollout).order_by(table.c.id)

        def read(connection: Connection) -> list[Keys]:
            rows = connection.execute(query).scalars()
            return [key for row in rows for key in msgspec.msgpack.decode(row, type=list[Keys])]

        return self._store.read(read)

    def add_diffs(self, diffs: Iterable[Diff]) -> None:
        """Keeps samples of differences, the newest of each route."""
        rows = list(diffs)

        def write(connection: Connection) -> None:
            table = schema.shadow_diffs
            for diff in rows:
                packed = msgspec.msgpack.encode(diff)
                connection.execute(insert(table).values(route=diff.route, at=diff.at, detail=packed))
            for route in {diff.route for diff in rows}:
                newest = select(table.c.id).where(table.c.route == route).order_by(table.c.id.desc())
                oldest = connection.execute(newest.offset(KEEP_DIFFS).limit(1)).scalar()
                if oldest is not None:
                    connection.execute(delete(table).where(table.c.route == route, table.c.id <= oldest))

        if rows:
            self._store.write(write)

    def diffs(self, route: str, limit: int) -> list[Diff]:
        """Samples of differences, newest first."""
        table = schema.shadow_diffs
        query = select(table.c.detail).where(table.c.route == route).order_by(table.c.id.desc()).limit(limit)
        return self._store.read(
            lambda c: [msgspec.msgpack.decode(row, type=Diff) for row in c.execute(query).scalars()]
        )


def _prune(connection: Connection) -> None:
    """Forgets all but those that ended last. By their end: one that stood for long has only just told its story."""
    table, told = schema.rollouts, schema.decisions
    ended = select(table.c.id).where(table.c.final.is_(True)).order_by(table.c.updated.desc(), table.c.number.desc())
    old = list(connection.execute(ended.offset(KEEP_ROLLOUTS)).scalars())
    if old:
        connection.execute(delete(told).where(told.c.rollout.in_(old)))
        connection.execute(delete(table).where(table.c.id.in_(old)))


def _columns(record: Record, now: float) -> dict[str, Any]:
    fading = _Evidence(record.evidence, record.marks)
    return {
        "updated": now,
        "phase": record.state.phase.value,
        "final": record.state.final,
        "record": msgspec.msgpack.encode(replace(record, evidence=Evidence(slow_bucket=0), marks={})),
        "evidence": msgspec.msgpack.encode(fading),
    }


def _record(row: Any) -> Record:
    record = msgspec.msgpack.decode(row["record"], type=Record)
    fading = msgspec.msgpack.decode(row["evidence"], type=_Evidence)
    return replace(record, evidence=fading.evidence, marks=fading.marks)


def _decision_row(record: Record, decision: Decision) -> dict[str, Any]:
    return {
        "rollout": record.id,
        "seq": decision.seq,
        "at": decision.at,
        "event": decision.event,
        "before": decision.before.value,
        "after": decision.state.phase.value,
        "stage": decision.state.stage,
        "reason": decision.reason,
        "verdict": msgspec.msgpack.encode(decision.verdict) if decision.verdict is not None else None,
    }


def _decision(row: Any) -> StoredDecision:
    packed = row["verdict"]
    verdict = msgspec.msgpack.decode(packed, type=Verdict) if packed is not None else None
    return StoredDecision(**{**row, "verdict": verdict})
