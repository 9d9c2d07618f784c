"""The store: generations of routes and the audit trail. Synchronous; one thread of the controller calls it."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, delete, event, func, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from gateway.controlplane import schema
from gateway.core.pool import Pool
from gateway.core.route import Evidence, Route, RouteTable
from gateway.errors import ConfigError, StoreError

T = TypeVar("T")

KEEP_GENERATIONS = 10_000
KEEP_AUDIT = 100_000
_BUSY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Why a generation comes to be: `kind` is apply, rollback, rollout or config; `at` is Unix time."""

    who: str
    why: str
    kind: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One published state of all routes."""

    number: int
    created: float
    who: str
    why: str
    kind: str
    routes: tuple[Route, ...]
    pools: tuple[Pool, ...]

    @property
    def table(self) -> RouteTable:
        """What workers are given: without what only the controller needs."""
        return RouteTable(generation=self.number, routes=tuple(map(_for_workers, self.routes)), pools=self.pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who did what and when (Unix time)."""

    id: int
    at: float
    who: str
    action: str
    generation: int | None
    detail: str


class WriterLock:
    """Held by the one process that may write to a state directory; freed by the kernel when it dies."""

    def __init__(self, state_dir: Path) -> None:
        path = state_dir / "controller.lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            what = f"{state_dir} is in use by another Sluice (controller process {owner})"
            raise StoreError(f"{what}; stop it, or give this one its own --state-dir") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Lets another process write."""
        os.close(self._fd)


class Store:
    """Generations and audit entries behind one engine. Every method raises StoreError saying what to do.

    Args:
        url: SQLAlchemy URL; empty for SQLite inside `state_dir`.
        keep: generations that are kept; older ones are dropped.
        busy_s: how long another program's lock on the file is waited for.
    """

    def __init__(self, url: str, state_dir: Path, *, keep: int = KEEP_GENERATIONS, busy_s: float = _BUSY_S) -> None:
        self._where = shown(url) if url else str(state_dir / "state.db")
        self._keep = keep
        self._engine = _engine(url, state_dir, busy_s)
        with self._connection() as connection:
            _prepare(connection, self._where)

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def latest(self) -> Generation | None:
        """The newest generation, None in a new store."""
        query = select(schema.generations).order_by(schema.generations.c.number.desc()).limit(1)
        return self.read(lambda c: _first(c, query, _generation))

    def generation(self, number: int) -> Generation | None:
        """One generation, None when it never was or is no longer kept."""
        query = select(schema.generations).where(schema.generations.c.number == number)
        return self.read(lambda c: _first(c, query, _generation))

    def generations(self, limit: int, before: int | None = None) -> list[Generation]:
        """Up to `limit` generations, newest first, all below `before` where that is given."""
        query = select(schema.generations).order_by(schema.generations.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(schema.generations.c.number < before)
        return self.read(lambda c: [_generation(row) for row in c.execute(query).mappings()])

    def add(self, change: Change, routes: tuple[Route, ...], pools: tuple[Pool, ...], above: int = 0) -> Generation:
        """Appends a generation, numbered above `above`, and its audit entry in one transaction."""

        def write(connection: Connection) -> Generation:
            table = schema.generations
            last = max(connection.execute(select(func.max(table.c.number))).scalar() or 0, above)
            row = {
                "number": last + 1,
                "created": change.at,
                "who": change.who,
                "why": change.why,
                "kind": change.kind,
                "routes": _dump(routes),
                "pools": _dump(pools),
            }
            connection.execute(insert(table).values(**row))
            connection.execute(delete(table).where(table.c.number <= last + 1 - self._keep))
            _add_audit(connection, change, last + 1, change.why)
            return _generation(row)

        return self.write(write)

    def note(self, change: Change, generation: int | None, detail: str) -> None:
        """Appends an audit entry alone."""
        self.write(lambda c: _add_audit(c, change, generation, detail))

    def audit(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """Up to `limit` audit entries, newest first, all with ids below `before` where that is given."""
        query = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(schema.audit.c.id < before)
        return self.read(lambda c: [AuditEntry(**row) for row in c.execute(query).mappings()])

    def read(self, query: Callable[[Connection], T]) -> T:
        """Runs a query."""
        with self._connection() as connection:
            return query(connection)

    def write(self, change: Callable[[Connection], T]) -> T:
        """Runs a change in one transaction."""
        with self._connection() as connection, connection.begin():
            return change(connection)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(_explain(error, self._where)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
            raise StoreError(f"the store {self._where} holds what this version cannot read: {error}") from error


def shown(url: str) -> str:
    """A database's URL without its password, for messages."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not shown: it may hold a password)"


def _engine(url: str, state_dir: Path, busy_s: float) -> Engine:
    if not url:
        # One connection: SQLite below 3.51.3 can corrupt a WAL database that several of one process write to.
        place = URL.create("sqlite", database=str(state_dir / "state.db"))
        engine = create_engine(place, connect_args={"timeout": busy_s}, pool_size=1, max_overflow=0)
    else:
        try:
            engine = create_engine(make_url(url), pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError) as error:
            raise ConfigError([f"store: {shown(url)!r} is not a database URL: {type(error).__name__}"]) from error
        except ImportError as error:
            raise ConfigError([f"store: {shown(url)!r} needs a driver that is not installed: {error}"]) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _set_pragmas(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions are begun here, not guessed by the driver
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # an applied generation survives a power cut


def _prepare(connection: Connection, where: str) -> None:
    """Creates the tables of a new store, or refuses one of another version."""
    with connection.begin():
        schema.metadata.create_all(connection)
        found = connection.execute(select(func.max(schema.schema_version.c.version))).scalar()
        if found is None:
            connection.execute(insert(schema.schema_version).values(version=schema.VERSION))
        elif found != schema.VERSION:
            age = "newer" if found > schema.VERSION else "older"
            raise StoreError(
                f"the store {where} was written by a {age} Sluice (schema {found}, this one knows {schema.VERSION}); "
                "run that version, or move the file away to start with an empty history"
            )


def _add_audit(connection: Connection, change: Change, generation: int | None, detail: str) -> None:
    row = {"at": change.at, "who": change.who, "action": change.kind, "generation": generation, "detail": detail}
    added = connection.execute(insert(schema.audit).values(**row)).inserted_primary_key
    newest = int(added[0]) if added else 0
    connection.execute(delete(schema.audit).where(schema.audit.c.id <= newest - KEEP_AUDIT))


def _for_workers(route: Route) -> Route:
    """A route whose predictions are remembered has its answers sampled."""
    evidence = route.evidence
    if route.predictions is not None:
        base = evidence or Evidence()
        evidence = replace(base, answers=max(base.answers, route.predictions.sample))
    return replace(route, rollout=None, predictions=None, evidence=evidence)


def _first(connection: Connection, query: Any, make: Callable[[Any], T]) -> T | None:
    row = connection.execute(query).mappings().first()
    return make(row) if row is not None else None


def _generation(row: Any) -> Generation:
    return Generation(
        number=row["number"],
        created=row["created"],
        who=row["who"],
        why=row["why"],
        kind=row["kind"],
        routes=msgspec.json.decode(row["routes"], type=tuple[Route, ...]),
        pools=msgspec.json.decode(row["pools"], type=tuple[Pool, ...]),
    )


def _dump(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _explain(error: SQLAlchemyError, where: str) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"the store {where} is locked by another program; end it (an open sqlite3 shell?) and try again"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return (
                f"the store {where} is corrupt ({cause}); restore a copy of it, or move it away together with its -wal "
                "and -shm files to start with an empty history"
            )
        case sqlite3.SQLITE_FULL:
            return f"the store {where} cannot grow: the disk is full"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"the store {where} cannot be opened for writing ({cause}); check its directory's permissions"
    return f"the store {where} failed: {cause}"
