"""Tables of the store. Plain columns and JSON text, so that SQLite and PostgreSQL hold the same."""

from sqlalchemy import Column, Float, Integer, MetaData, String, Table, Text

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
