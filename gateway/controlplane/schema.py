"""Tables of the store. Plain columns and JSON text, so that SQLite and PostgreSQL hold the same."""

from sqlalchemy import Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

VERSION = 1

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

generations = Table(
    "generations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("created", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("routes", Text, nullable=False),
    Column("pools", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("action", String(40), nullable=False),
    Column("generation", Integer, nullable=True),
    Column("detail", Text, nullable=False),
)

# One row per rollout; the blobs are msgpack of gateway.controlplane.delivery.record.Record in two parts, because the
# second changes every second and the first hardly ever.
rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(300), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("route", String(200), nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("phase", String(20), nullable=False),
    Column("final", Boolean, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    Index("rollouts_by_route", "route", "number"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("rollout", String(300), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("event", String(40), nullable=False),
    Column("before", String(20), nullable=False),
    Column("after", String(20), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("verdict", LargeBinary, nullable=True),
)

rollout_keys = Table(
    "rollout_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("rollout", String(300), nullable=False, index=True),
    Column("hashes", LargeBinary, nullable=False),
)

shadow_diffs = Table(
    "shadow_diffs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("route", String(200), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("detail", LargeBinary, nullable=False),
)

# Events to be told to the outside; a row goes when it was taken or given up.
outbox = Table(
    "outbox",
    metadata,
    Column("id", String(320), primary_key=True),
    Column("at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("url", Text, nullable=False),
    Column("body", Text, nullable=False),
)
