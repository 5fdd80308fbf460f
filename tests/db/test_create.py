"""Making the database: whole or not at all, once, and never over somebody else's."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from novactl.db.servers import ServerDatabase
from novactl.db.session import SCHEMA, Database
from novactl.db.sqlite import SqliteDatabase
from novactl.errors import DatabaseError
from tests.support.databases import KINDS, Place, in_processes, place

PROCESSES = 8


@pytest.fixture
def bare(everywhere: Place, quick: Path) -> Any:
    """One that nobody has initialised."""
    found = everywhere.bare(quick)
    yield found
    everywhere.discard(found)


def by_hand(db: Database, *statements: str) -> None:
    """What another program does in it."""
    engine: Any = db._writer if isinstance(db, ServerDatabase) else None
    if isinstance(db, SqliteDatabase):
        engine = sqlalchemy.create_engine(f"sqlite:///{db.path}")
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))


def tables(db: Database) -> set[str]:
    if isinstance(db, SqliteDatabase):
        return set(sqlalchemy.inspect(sqlalchemy.create_engine(f"sqlite:///{db.path}")).get_table_names())
    assert isinstance(db, ServerDatabase)
    return set(sqlalchemy.inspect(db._reader).get_table_names())


def test_before_it_is_made(bare: Database) -> None:
    assert not bare.exists
    if isinstance(bare, ServerDatabase):  # to look for a file does not make it
        assert bare.schema() is None
    for how in (bare.fleet, lambda: bare.write(lambda tx: None)):
        with pytest.raises(DatabaseError) as caught:
            how()
        assert caught.value.code == 9
        assert "novactl db init" in caught.value.hint


def test_made_once(bare: Database, everywhere: Place) -> None:
    bare.create("fleet-1")
    assert (bare.exists, bare.schema(), bare.fleet()) == (True, str(SCHEMA), "fleet-1")
    assert bare.differences() == []
    bare.create("fleet-2")
    other = everywhere.apart(bare)
    other.create("fleet-3")
    assert bare.fleet() == other.fleet() == "fleet-1"
    other.close()


def _first(db: Database, worker: int) -> tuple[str, str, list[str]]:
    """A process that finds no database and makes one, as all others do, and at once works with it."""
    db.create(f"fleet-{worker}")
    name = f"worker-{worker}"
    db.write(lambda tx: tx.insert("meta", name=name, value="was here"))
    return db.fleet(), name, db.differences()


def test_made_by_processes_at_once(everywhere: Place, quick: Path) -> None:
    for turn in range(3):
        db = everywhere.bare(quick / str(turn))
        found = in_processes(_first, lambda db=db: everywhere.apart(db), PROCESSES)  # type: ignore[misc]
        assert {fleet for fleet, _, _ in found} == {db.fleet()}
        assert [differences for _, _, differences in found] == [[]] * PROCESSES
        rows = db.read(lambda tx: tx.all("SELECT name FROM meta WHERE name LIKE 'worker-%'"))
        assert {row["name"] for row in rows} == {name for _, name, _ in found}  # nobody's work was lost
        everywhere.discard(db)


def test_an_empty_file_is_filled_by_one_of_many(quick: Path) -> None:
    for turn in range(5):
        db = SqliteDatabase(quick / f"{turn}.db")
        db.path.touch(mode=0o644)
        found = in_processes(_first, lambda db=db: SqliteDatabase(db.path), PROCESSES)  # type: ignore[misc]
        assert {fleet for fleet, _, _ in found} == {db.fleet()}
        assert db.path.stat().st_mode & 0o777 == 0o600
        with db.reading() as tx:
            assert len(tx.all("SELECT name FROM meta WHERE name LIKE 'worker-%'")) == PROCESSES
        db.close()


def test_a_database_that_holds_tables_of_our_names(bare: Database) -> None:
    by_hand(bare, "CREATE TABLE hosts (id INTEGER)", "INSERT INTO hosts VALUES (7)")
    with pytest.raises(DatabaseError) as caught:
        bare.create("fleet-1")
    assert caught.value.message == f"{bare.where}: holds something else"
    assert (caught.value.code, caught.value.hint) == (9, "choose another with --db")
    assert tables(bare) == {"hosts"}
    assert not bare.exists


@pytest.mark.parametrize("kind", KINDS[1:])
def test_tables_of_others_on_a_server_stay_and_do_not_matter(kind: str, quick: Path) -> None:
    db = place(kind).bare(quick)
    by_hand(db, "CREATE TABLE cookies (id INTEGER)", "INSERT INTO cookies VALUES (7)")
    db.create("fleet-1")
    assert (db.fleet(), db.differences()) == ("fleet-1", [])
    assert db.read(lambda tx: tx.all("SELECT * FROM cookies")) == [{"id": 7}]
    place(kind).discard(db)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_two_databases_of_one_server_know_nothing_of_each_other(kind: str, quick: Path) -> None:
    one, two = place(kind).bare(quick), place(kind).bare(quick)
    one.create("fleet-1")
    assert not two.exists
    two.create("fleet-2")
    one.write(lambda tx: tx.insert("meta", name="a", value="one"))
    two.write(lambda tx: tx.insert("meta", name="a", value="two"))
    assert (one.fleet(), two.fleet()) == ("fleet-1", "fleet-2")
    for db in (one, two):
        place(kind).discard(db)


def test_a_creation_that_was_cut_short_is_gone_on_with(quick: Path) -> None:
    """MariaDB cannot take a CREATE TABLE back."""
    db = place("mariadb").bare(quick)
    by_hand(
        db, "CREATE TABLE meta (name VARCHAR(64) COLLATE utf8mb4_bin PRIMARY KEY, value MEDIUMTEXT NOT NULL)"
    )
    assert not db.exists
    db.create("fleet-1")
    assert db.fleet() == "fleet-1"
    assert db.differences() == []
    place("mariadb").discard(db)


# --- what differs from what we make ---


def test_differences_are_told(everywhere: Place, quick: Path) -> None:
    db = everywhere.bare(quick)
    db.create("fleet-1")
    by_hand(db, "DROP TABLE secrets", "ALTER TABLE meta ADD COLUMN more INTEGER")
    words = " ".join(db.differences())
    assert "secrets" in words
    assert "more" in words
    by_hand(db, "DROP TABLE events")
    assert "events" in " ".join(db.differences())
    everywhere.discard(db)


def test_damage_is_told(quick: Path) -> None:
    db = SqliteDatabase(quick / "novactl.db")
    db.create("fleet-1")
    row = "('host', 'kvm1', 'op-9', 'S')"
    by_hand(db, f"INSERT INTO op_locks (kind, id, operation, mode) VALUES {row}")
    assert db.differences() == ["damaged: a row of op_locks names a row of operations that is not there"]
    db.close()
