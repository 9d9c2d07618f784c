"""The embedded store: order, durability and one clear message for each way it can fail."""

import sqlite3
from pathlib import Path

import pytest

from gateway.controlplane import schema, tablefile
from gateway.controlplane.store import Change, Store, WriterLock
from gateway.core.pool import Backend, Pool
from gateway.core.route import Route, RouteTable, Variant
from gateway.errors import ConfigError, ExitCode, StoreError

POOLS = (Pool(name="default", backends=(Backend(url="http://127.0.0.1:8000"),)),)


def change(why: str = "", at: float = 1.0) -> Change:
    return Change(who="me", why=why, kind="apply", at=at)


def route(version: str = "1") -> Route:
    return Route(name="r", variants=(Variant(name="a", model="m", version=version, weight=100.0),))


def test_generations_are_numbered_and_come_back_whole(tmp_path: Path) -> None:
    """Numbers grow by one; what was stored is what is read, also by another process later."""
    store = Store("", tmp_path)
    assert store.latest() is None
    first = store.add(change("one"), (route("1"),), POOLS)
    second = store.add(change("two", at=2.0), (route("2"),), POOLS)
    store.close()
    again = Store("", tmp_path)
    assert [first.number, second.number] == [1, 2]
    assert again.latest() == second
    assert again.generation(1) == first
    assert again.generation(3) is None
    assert [g.number for g in again.generations(10)] == [2, 1]
    assert [g.number for g in again.generations(10, before=2)] == [1]
    assert [(e.action, e.generation, e.detail) for e in again.audit(10)] == [("apply", 2, "two"), ("apply", 1, "one")]
    again.close()


def test_a_number_is_never_given_twice_after_the_store_was_lost(tmp_path: Path) -> None:
    """Workers ignore older generations, so a new store continues above the table that they may hold."""
    store = Store("", tmp_path)
    assert store.add(change(), (route(),), POOLS, above=41).number == 42
    assert store.add(change(), (route("2"),), POOLS).number == 43
    store.close()


def test_old_generations_are_dropped(tmp_path: Path) -> None:
    """The history is bounded; the newest stay."""
    store = Store("", tmp_path, keep=5)
    for version in range(1, 9):
        store.add(change(), (route(str(version)),), POOLS)
    assert [g.number for g in store.generations(100)] == [8, 7, 6, 5, 4]
    store.close()


def _damage(tmp_path: Path, how: str) -> None:
    path = tmp_path / "state.db"
    Store("", tmp_path).close()
    match how:
        case "text":
            path.write_bytes(b"not a database at all" * 100)
        case "torn":
            data = path.read_bytes()
            path.write_bytes(data[:100] + b"\xff" * (len(data) - 100))
        case "newer":
            with sqlite3.connect(path) as database:
                database.execute("UPDATE schema_version SET version = ?", (schema.VERSION + 1,))
            database.close()
        case "foreign":
            with sqlite3.connect(path) as database:
                database.execute("INSERT INTO generations VALUES (1, 0, '', '', 'apply', '[{}]', '[]')")
            database.close()


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("text", "is corrupt"),
        ("torn", "is corrupt"),
        ("newer", "written by a newer Sluice"),
        ("foreign", "holds what this version cannot read"),
    ],
)
def test_a_damaged_store_says_what_to_do(tmp_path: Path, how: str, what: str) -> None:
    """Opening or reading a damaged file is a StoreError that names the file."""
    _damage(tmp_path, how)
    with pytest.raises(StoreError, match=what) as raised:
        Store("", tmp_path).latest()
    assert str(tmp_path / "state.db") in str(raised.value)
    assert raised.value.exit_code is ExitCode.STORE


def test_a_locked_store_says_so(tmp_path: Path) -> None:
    """Another program's lock ends in a message after a bounded wait, and the store works again afterwards."""
    store = Store("", tmp_path, busy_s=0.1)
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked by another program"):
        store.add(change(), (route(),), POOLS)
    other.execute("ROLLBACK")
    other.close()
    assert store.add(change(), (route(),), POOLS).number == 1
    store.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """One controller per state directory; the next one can start once the first is gone."""
    lock = WriterLock(tmp_path)
    with pytest.raises(StoreError, match="in use by another Sluice"):
        WriterLock(tmp_path)
    lock.release()
    WriterLock(tmp_path).release()


@pytest.mark.parametrize("url", ["nonsense", "weird://u:hush@x/y", "postgresql+nodriver://u:hush@x/y"])
def test_a_wrong_store_url_is_a_configuration_error(tmp_path: Path, url: str) -> None:
    """A URL that no driver understands is refused as such, without the password it may hold."""
    with pytest.raises(ConfigError, match=r"^store: ") as raised:
        Store(url, tmp_path)
    assert "hush" not in str(raised.value)


def test_the_table_file_is_replaced_whole(tmp_path: Path) -> None:
    """What was written is read back, a torn file counts as none, and no temporary file stays."""
    path = tmp_path / "table.msgpack"
    assert tablefile.read(path) is None
    table = RouteTable(generation=3, routes=(route(),), pools=POOLS)
    tablefile.write(path, table)
    assert tablefile.read(path) == table
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.msgpack"]
    path.write_bytes(path.read_bytes()[:-3])
    assert tablefile.read(path) is None
    with pytest.raises(StoreError, match="cannot write"):
        tablefile.write(tmp_path / "none" / "table.msgpack", table)
