"""The SQLite file: who may read it, what it refuses, and that a transaction is one."""

import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from novactl.db.session import SCHEMA, Rollback, dumps
from novactl.db.sqlite import SqliteDatabase
from novactl.errors import DatabaseError, Refused
from tests.support import scratch

NOBODY = 65534


@pytest.fixture
def db(quick: Path) -> Iterator[SqliteDatabase]:
    database = scratch.database(quick / "novactl.db")
    yield database
    database.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_create_is_private(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "one" / "two" / "novactl.db")
    assert not database.exists
    before = os.umask(0)
    try:
        database.create("fleet-1")
    finally:
        os.umask(before)
    assert (mode(database.path), mode(database.path.parent)) == (0o600, 0o700)
    assert database.exists
    assert database.fleet() == "fleet-1"
    with database.writing() as tx:
        tx.insert("meta", name="a", value="b")
        assert {mode(path) for path in database.path.parent.iterdir()} == {0o600}
    database.close()


def test_create_twice_keeps_the_fleet(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "novactl.db")
    database.create("fleet-1")
    database.create("fleet-2")
    assert database.fleet() == "fleet-1"
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["novactl.db"]


def test_create_fills_an_empty_file_and_leaves_another_program_s_alone(tmp_path: Path) -> None:
    empty = SqliteDatabase(tmp_path / "empty.db")
    empty.path.touch()
    empty.create("fleet-1")
    assert empty.fleet() == "fleet-1"
    empty.close()
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE cookies (id INTEGER)")
    connection.close()
    with pytest.raises(DatabaseError, match=r"foreign\.db: holds something else$") as caught:
        SqliteDatabase(foreign).create("fleet-1")
    assert caught.value.code == 9
    with sqlite3.connect(foreign) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("cookies",)]
    connection.close()


def test_settings_that_durability_needs(db: SqliteDatabase) -> None:
    with db.writing() as tx:
        assert tx.one("PRAGMA journal_mode") == {"journal_mode": "wal"}
        assert tx.one("PRAGMA synchronous") == {"synchronous": 2}  # FULL
        assert tx.one("PRAGMA foreign_keys") == {"foreign_keys": 1}


def test_tables_are_those_of_the_schema(db: SqliteDatabase) -> None:
    from novactl.db import tables

    with db.reading() as tx:
        for table in tables.metadata.sorted_tables:
            columns = {row["name"] for row in tx.all(f"PRAGMA table_info({table.name})")}
            assert columns == {column.name for column in table.columns}, table.name


def with_schema(path: Path, value: str) -> SqliteDatabase:
    database = scratch.database(path)
    with database.writing() as tx:
        tx.run("UPDATE meta SET value = :value WHERE name = 'schema'", value=value)
    database.close()
    return SqliteDatabase(path)


@pytest.mark.parametrize("how", ["read", "write"])
@pytest.mark.parametrize("schema", ["0", "2", "999"])
def test_another_schema_is_refused_every_time(quick: Path, how: str, schema: str) -> None:
    database = with_schema(quick / "novactl.db", schema)
    for _ in range(2):  # and not only the first time
        with (
            pytest.raises(
                DatabaseError, match=rf"has schema {schema}, this novactl needs {SCHEMA}"
            ) as caught,
            getattr(database, how)(),
        ):
            pytest.fail("it was opened")
        assert caught.value.code == 9
        assert caught.value.hint == "use the novactl that wrote it"
    database.close()


def test_a_look_whether_it_exists_does_not_let_another_schema_pass(quick: Path) -> None:
    database = with_schema(quick / "novactl.db", "2")
    assert database.exists
    with pytest.raises(DatabaseError, match=r"has schema 2"):
        database.fleet()
    database.close()


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"this is not a database, it is a text of some length" * 10, "file is not a database", "another"),
        (b"", "no such table", "novactl db init"),
    ],
)
def test_what_is_not_ours(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    path = tmp_path / "novactl.db"
    path.write_bytes(content)
    for how in ("read", "write"):
        database = SqliteDatabase(path)
        with pytest.raises(DatabaseError, match=message) as caught, getattr(database, how)():
            pytest.fail("it was opened")
        assert caught.value.code == 9
        assert hint in caught.value.hint
        assert str(path) in caught.value.message


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with (
        pytest.raises(DatabaseError, match=r"unable to open database file"),
        SqliteDatabase(tmp_path).reading(),
    ):
        pytest.fail("it was opened")


def test_a_truncated_database(quick: Path) -> None:
    path = scratch.database(quick / "novactl.db").path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100])
    broken = r"malformed|not a database|disk I/O error"
    with pytest.raises(DatabaseError, match=broken) as caught, SqliteDatabase(path).writing() as tx:
        for table in ("instances", "operations", "steps", "events", "secrets"):
            tx.all(f"SELECT * FROM {table}")
    assert caught.value.code == 9


def as_nobody(work: Callable[[], str]) -> str:
    """What `work` returns in a process that file permissions bind: as root, in one of nobody's."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        os.close(reader)
        try:
            if os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            text = work()
        except BaseException as error:  # noqa: BLE001 - told to the test
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that others may enter."""
    directory = Path(tempfile.mkdtemp(prefix="novactl-test-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def refused(work: Callable[[], object]) -> Callable[[], str]:
    def told() -> str:
        try:
            work()
        except DatabaseError as error:
            return f"{error.code}: {error.message} ({error.hint})"
        return "it went through"

    return told


def written(path: Path) -> None:
    with SqliteDatabase(path).writing() as tx:
        tx.insert("meta", name="a", value="b")


def test_a_file_that_may_only_be_read(public: Path) -> None:
    path = scratch.database(public / "novactl.db").path
    path.chmod(0o444)
    public.chmod(0o555)
    told = as_nobody(refused(lambda: written(path)))
    assert told.startswith(f"9: {path}: ")
    assert "cannot be written by you" in told or "not yours" in told


def test_a_directory_that_may_not_be_written(public: Path) -> None:
    public.chmod(0o555)
    told = as_nobody(refused(lambda: SqliteDatabase(public / "novactl.db").create("fleet")))
    assert told.startswith(f"9: {public / 'novactl.db'}: ")
    assert "not yours" in told or "cannot be written by you" in told
    told = as_nobody(refused(lambda: SqliteDatabase(public / "more" / "novactl.db").create("fleet")))
    assert told.startswith(f"9: {public / 'more' / 'novactl.db'}: ")
    assert list(public.iterdir()) == []


def test_a_file_of_somebody_else(public: Path) -> None:
    path = scratch.database(public / "novactl.db").path
    path.chmod(0o600)
    if os.getuid() != 0:
        path.chmod(0)
    told = as_nobody(refused(lambda: SqliteDatabase(path).fleet()))
    assert told.startswith(f"9: {path}: unable to open database file")


# --- transactions ---


def test_a_write_that_raises_leaves_nothing(db: SqliteDatabase) -> None:
    with pytest.raises(Refused), db.writing() as tx:
        tx.insert("meta", name="a", value="b")
        raise Refused("no")
    with pytest.raises(KeyboardInterrupt), db.writing() as tx:
        tx.insert("meta", name="a", value="b")
        raise KeyboardInterrupt
    with db.writing() as tx:
        tx.insert("meta", name="c", value="d")
        raise Rollback
    with db.reading() as tx:
        assert {row["name"] for row in tx.all("SELECT name FROM meta")} == {"fleet", "schema"}


def test_a_read_sees_one_moment_and_writes_nothing(db: SqliteDatabase) -> None:
    with db.reading() as before:
        assert before.one("SELECT 1 AS yes FROM meta WHERE name = 'a'") is None
        with db.writing() as tx:
            tx.insert("meta", name="a", value="b")
        assert before.one("SELECT 1 AS yes FROM meta WHERE name = 'a'") is None
        other: list[object] = []
        thread = threading.Thread(
            target=lambda: other.append(_one(db, "SELECT value FROM meta WHERE name = 'a'"))
        )
        thread.start()
        thread.join()
        assert other == [{"value": "b"}]


def _one(db: SqliteDatabase, sql: str) -> object:
    with db.reading() as tx:
        return tx.one(sql)


def test_threads_take_turns_to_write(db: SqliteDatabase) -> None:
    with db.writing() as tx:
        tx.insert("meta", name="count", value="0")

    def count_up() -> None:
        for _ in range(20):
            with db.writing() as tx:
                row = tx.one("SELECT value FROM meta WHERE name = 'count'")
                assert row
                tx.run("UPDATE meta SET value = :n WHERE name = 'count'", n=str(int(row["value"]) + 1))

    threads = [threading.Thread(target=count_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _one(db, "SELECT value FROM meta WHERE name = 'count'") == {"value": "160"}


def test_sqlites_errors_are_ours(db: SqliteDatabase) -> None:
    with (
        pytest.raises(DatabaseError, match=r"UNIQUE constraint failed: meta.name") as caught,
        db.writing() as tx,
    ):
        tx.insert("meta", name="fleet", value="another")
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    assert caught.value.code == 9


def test_values_are_bound_not_pasted(db: SqliteDatabase) -> None:
    evil = "x'); DROP TABLE meta; --"
    with db.writing() as tx:
        tx.insert("meta", name=evil, value=evil)
    with db.reading() as tx:
        assert tx.one("SELECT value FROM meta WHERE name = :name", name=evil) == {"value": evil}


def test_json_for_a_column_is_sorted_and_readable() -> None:
    assert dumps({"b": "é", "a": None}) == '{"a": null, "b": "é"}'
