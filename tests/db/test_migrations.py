"""`db upgrade`: a database of novactl 0.1 becomes what this one makes, whatever comes between."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import op

from novactl.db import hosts, migrations, operations, servers, session
from novactl.db.journal import DbJournal, Owner
from novactl.db.servers import FIRST_WORDS, ServerDatabase
from novactl.db.session import SCHEMA, Database, Tx, set_meta
from novactl.db.sqlite import SqliteDatabase
from novactl.errors import DatabaseError
from tests.db import schema1
from tests.sim.effort import sample
from tests.support.clock import SimClock
from tests.support.databases import KINDS, Place, in_processes, place
from tests.support.toys import TOYS

TOLD = [
    "0002: leases of operations, marks of commits",
    "0003: aggregates, settings and cron tasks",
    "0004: server groups, projects, and what placement knows of hosts and instances",
    "0005: migrations: moves of instances to another host or flavor",
    "0006: certificates: of hosts, signed by the fleet's authority",
    "0007: instances: what one in rescue boots, and what is kept of one that is shelved",
    "0008: backups: of the disks of instances, their files in the image store",
]
WORDS = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
NAMED = [f"id VARCHAR(64) {WORDS} NOT NULL PRIMARY KEY", f"name VARCHAR(64) {WORDS} NOT NULL UNIQUE"]
THIRD = {
    "aggregates": [*NAMED, *(f"{name} MEDIUMTEXT {WORDS} NOT NULL" for name in ("hosts", "metadata"))],
    "settings": [*NAMED, f"value MEDIUMTEXT {WORDS} NOT NULL"],
    "tasks": [
        f"name VARCHAR(64) {WORDS} NOT NULL PRIMARY KEY",
        "due_at DOUBLE NOT NULL",
        f"runner VARCHAR(64) {WORDS}",
        "lease_until DOUBLE",
        *(f"{name} VARCHAR(32) {WORDS}" for name in ("started_at", "finished_at")),
        f"result VARCHAR(16) {WORDS}",
        f"message MEDIUMTEXT {WORDS}",
    ],
}
FOURTH_COLUMNS = [
    ("hosts", f"arch VARCHAR(16) {WORDS}"),
    ("hosts", "huge_memory_mib INTEGER NOT NULL DEFAULT '0'"),
    ("hosts", f"dedicated_cpus MEDIUMTEXT {WORDS}"),
    ("hosts", "failed_builds INTEGER NOT NULL DEFAULT '0'"),
    ("instances", f"group_id VARCHAR(64) {WORDS}"),
    ("instances", f"placement MEDIUMTEXT {WORDS}"),
    ("holds", f"numa MEDIUMTEXT {WORDS}"),
]
FOURTH = {
    "server_groups": [
        NAMED[0],
        *(f"{name} VARCHAR(64) {WORDS} NOT NULL" for name in ("name", "project")),
        f"policy VARCHAR(24) {WORDS} NOT NULL",
        *(f"{name} INTEGER NOT NULL" for name in ("max_per_host", "version")),
        "UNIQUE (project, name)",
    ],
    "projects": [
        f"name VARCHAR(64) {WORDS} NOT NULL PRIMARY KEY",
        *(f"{name} MEDIUMTEXT {WORDS} NOT NULL" for name in ("description", "limits")),
        f"created_at VARCHAR(32) {WORDS} NOT NULL",
        *(
            f"{name}_used INTEGER NOT NULL CHECK ({name}_used >= 0)"
            for name in ("instances", "cores", "memory_mib")
        ),
    ],
}
BY_HAND = [
    "ALTER TABLE operations ADD COLUMN lease_until DOUBLE",
    "ALTER TABLE operations ADD COLUMN runner VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE INDEX operations_by_runner ON operations (runner)",
    *(
        f"ALTER TABLE hosts MODIFY {ratio} DOUBLE NOT NULL"
        for ratio in ("cpu_ratio", "memory_ratio", "disk_ratio")
    ),
    "CREATE TABLE commits (id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,"
    " at DOUBLE NOT NULL)",
    *(f"CREATE TABLE {name} ({', '.join(columns)})" for name, columns in THIRD.items()),
    "CREATE INDEX instances_by_project ON instances (project, deleted_at, created_at)",
    *(f"ALTER TABLE {table} ADD COLUMN {column}" for table, column in FOURTH_COLUMNS),
    "CREATE INDEX instances_by_group ON instances (group_id)",
    "CREATE INDEX holds_by_host ON holds (host)",
    *(f"CREATE TABLE {name} ({', '.join(columns)})" for name, columns in FOURTH.items()),
]
"""What 0002, 0003 and 0004 do, one statement at a time."""
STAMPS = [
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('0001')",
]
DEATHS = list(itertools.product(range(len(BY_HAND) + 1), range(len(STAMPS) + 1)))


@pytest.fixture
def old(everywhere: Place, quick: Path) -> Iterator[Database]:
    """A database of novactl 0.1 with operations that run."""
    found = everywhere.bare(quick)
    schema1.make(found)
    yield found
    everywhere.discard(found)


def engine(db: Database) -> Any:
    if isinstance(db, SqliteDatabase):
        return sqlalchemy.create_engine(f"sqlite:///{db.path}")
    assert isinstance(db, ServerDatabase)
    return db._writer


def by_hand(db: Database, *statements: str) -> None:
    with engine(db).begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))


def rows(db: Database) -> dict[str, list[dict[str, Any]]]:
    """Everything in the tables that 0.1 had, without what newer ones add."""
    found = {}
    with engine(db).connect() as connection:
        for table in schema1.metadata.sorted_tables:
            statement = sqlalchemy.select(table).order_by(*table.primary_key.columns)
            found[table.name] = [dict(row) for row in connection.execute(statement).mappings()]
    return found


def shape(db: Database) -> dict[str, Any]:
    """Columns, keys and indexes as the server tells them."""
    look = sqlalchemy.inspect(engine(db))
    found = {}
    for table in look.get_table_names():
        if table == "alembic_version":
            continue
        columns = {
            column["name"]: (str(column["type"]), column["nullable"]) for column in look.get_columns(table)
        }
        indexes = {
            index["name"]: (index["column_names"], bool(index["unique"])) for index in look.get_indexes(table)
        }
        keys = sorted(str(key["constrained_columns"]) for key in look.get_foreign_keys(table))
        primary = look.get_pk_constraint(table)["constrained_columns"]
        found[table] = columns, indexes, keys, primary
    return found


def as_made(db: Database, where: Place, directory: Path) -> None:
    """It has the shape that create() makes, and novactl has nothing to say against it."""
    made = where.bare(directory)
    made.create("fleet-2")
    assert shape(db) == shape(made)
    where.discard(made)
    assert db.differences() == []
    assert db.schema() == str(SCHEMA)


# --- the whole way ---


def test_an_upgrade_keeps_every_row_and_makes_what_create_makes(
    old: Database, everywhere: Place, quick: Path
) -> None:
    before = rows(old)
    assert before["operations"] and before["steps"] and before["op_locks"]
    assert old.schema() == "1"
    assert old.upgrade() == TOLD
    after = rows(old)
    assert after.pop("meta") == [
        {"name": "fleet", "value": "fleet-1"},
        {"name": "schema", "value": str(SCHEMA)},
    ]
    before.pop("meta")
    assert after == before
    as_made(old, everywhere, quick / "made")
    assert old.upgrade() == []
    assert old.fleet() == "fleet-1"


@pytest.mark.parametrize("since", range(2, SCHEMA))
def test_from_each_schema_that_there_was(
    old: Database, everywhere: Place, quick: Path, monkeypatch: pytest.MonkeyPatch, since: int
) -> None:
    before = rows(old)
    before.pop("meta")
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "SCHEMA", since)  # an older novactl had upgraded it
        assert old.upgrade() == TOLD[: since - 1]
    assert old.schema() == str(since)
    assert old.upgrade() == TOLD[since - 1 :]
    after = rows(old)
    after.pop("meta")
    assert after == before
    as_made(old, everywhere, quick / "made")


def test_a_host_s_architecture_is_what_its_facts_say(old: Database) -> None:
    old.upgrade()
    found = old.read(hosts.everything)
    assert [(host.name, host.arch, host.failed_builds) for host in found] == [
        ("kvm1", "aarch64", 0),
        ("kvm2", None, 0),
    ]
    (instance,) = old.read(lambda tx: tx.all("SELECT group_id, placement FROM instances"))
    assert instance == {"group_id": None, "placement": None}


def test_operations_that_ran_are_left_to_be_taken_over(old: Database) -> None:
    old.upgrade()
    journal = DbJournal(old, TOYS, SimClock(), Owner(words="new", user="new", key={}))
    running = journal.load("op-1")
    assert [str(record.state) for record in running.records] == ["done", "started"]
    assert old.read(lambda tx: operations.owner(tx, "op-1")) == ({"boot": "b", "pid": 7}, True)
    assert {op.id for op, _, _ in old.read(lambda tx: operations.listed(tx, active=True))} == {"op-1", "op-2"}
    old.write(lambda tx: journal.take(tx, running, 2))
    journal.done(running, running.records[1])
    assert journal.load("op-1").epoch == 2
    assert old.read(lambda tx: operations.owner(tx, "op-1"))[1] is False


def test_before_it_everybody_is_told_to_upgrade(old: Database, everywhere: Place) -> None:
    def nothing(tx: Tx) -> None:
        pytest.fail("it was opened")

    hows = [
        old.fleet,
        lambda: old.write(nothing),  # though the marks of commits have no table there
        lambda: old.write(nothing, alone=False),
        lambda: old.rehearse(nothing),
    ]
    for how in hows:
        with pytest.raises(DatabaseError) as caught:
            how()
        assert caught.value.message == f"{old.where}: has schema 1, this novactl needs {SCHEMA}"
        assert (caught.value.code, caught.value.hint) == (9, "novactl db upgrade")
    assert old.differences() != []
    old.create("fleet-2")  # `db init` leaves it as it is
    assert old.schema() == "1"


@pytest.mark.parametrize("newer", [str(SCHEMA + 1), "999"])
def test_a_newer_one_is_refused_and_left_alone(db: Database, newer: str) -> None:
    with db.writing() as tx:
        set_meta(tx, "schema", newer)
    with pytest.raises(DatabaseError) as caught:
        db.upgrade()
    assert caught.value.message == f"{db.where}: has schema {newer}, this novactl needs {SCHEMA}"
    assert (caught.value.code, caught.value.hint) == (9, "a newer novactl has upgraded it: use that one")
    assert db.schema() == newer


def test_one_that_was_never_made(everywhere: Place, quick: Path) -> None:
    db = everywhere.bare(quick)
    with pytest.raises(DatabaseError) as caught:
        db.upgrade()
    assert caught.value.code == 9
    assert "novactl db init" in caught.value.hint
    assert db.where in caught.value.message
    everywhere.discard(db)


def test_one_that_is_made_anew_needs_none(db: Database) -> None:
    assert db.upgrade() == []
    assert db.differences() == []


# --- cut short ---


def test_a_failure_half_way_is_gone_on_with(
    old: Database, everywhere: Place, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite and PostgreSQL take all of it back, MariaDB keeps what was done; both end well."""
    before, shape_before = rows(old), shape(old)

    def broken(*_: Any, **__: Any) -> None:
        raise DatabaseError("the machine went down")

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_table", broken)
        for _ in range(2):
            with pytest.raises(DatabaseError, match=r"^the machine went down$"):
                old.upgrade()
            assert rows(old) == before
            assert old.schema() == "1"
            if everywhere.kind != "mariadb":
                assert shape(old) == shape_before
    assert old.upgrade() == TOLD
    as_made(old, everywhere, quick / "made")


@pytest.mark.parametrize(("done", "stamps"), sample(DEATHS, 5))
def test_killed_after_any_statement_of_it_on_mariadb(quick: Path, done: int, stamps: int) -> None:
    where = place("mariadb")
    db = where.bare(quick)
    schema1.make(db)
    before = rows(db)
    by_hand(db, *STAMPS[:stamps], *BY_HAND[:done])
    assert db.upgrade() == TOLD
    as_made(db, where, quick)
    before.pop("meta")
    after = rows(db)
    after.pop("meta")
    assert after == before
    where.discard(db)


def test_killed_between_alembic_s_word_and_ours_on_mariadb(quick: Path) -> None:
    where = place("mariadb")
    db = where.bare(quick)
    schema1.make(db)
    by_hand(db, STAMPS[0], "INSERT INTO alembic_version VALUES ('0002')", *BY_HAND)
    db.upgrade()
    as_made(db, where, quick)
    where.discard(db)


# --- at once ---


def test_several_at_once_do_it_once(old: Database, everywhere: Place, quick: Path) -> None:
    found = in_processes(lambda db, _: db.upgrade(), lambda: everywhere.apart(old), 4)
    assert sorted(found, key=len) == [[], [], [], TOLD]
    as_made(old, everywhere, quick / "made")


def test_a_writer_of_the_old_schema_ends_and_is_then_refused(
    old: Database, everywhere: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SCHEMA", 1)  # this process is the older novactl
    with old.writing() as tx:  # it has its connection
        set_meta(tx, "before", "x")
    newer, inside, order = everywhere.apart(old), threading.Event(), []

    def upgrade() -> None:
        inside.wait(10)
        order.append(newer.upgrade())

    thread = threading.Thread(target=upgrade)
    thread.start()
    with old.writing() as tx:
        inside.set()
        time.sleep(0.5)
        set_meta(tx, "meanwhile", "x")
        order.append("written")
    thread.join(30)
    assert order == ["written", TOLD]  # the upgrade waited for it
    for alone in (True, False):
        with pytest.raises(DatabaseError, match=rf"has schema {SCHEMA}, this novactl needs 1$") as caught:
            old.writing(alone=alone).__enter__()
        assert caught.value.hint == "a newer novactl has upgraded it: use that one"
    with pytest.raises(DatabaseError, match=rf"has schema {SCHEMA}, this novactl needs 1$"):
        old.fleet()
    monkeypatch.undo()
    assert newer.read(lambda tx: session.meta(tx, "meanwhile")) == "x"
    newer.close()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_upgrade_waits_for_those_who_look(kind: str, quick: Path) -> None:
    where = place(kind)
    db = where.bare(quick)
    schema1.make(db)
    done = threading.Event()

    def upgrade() -> None:
        assert db.upgrade() == TOLD
        done.set()

    with engine(db).connect() as connection:
        before = connection.execute(sqlalchemy.text("SELECT * FROM operations")).all()
        thread = threading.Thread(target=upgrade)
        thread.start()
        assert not done.wait(0.3)
        assert connection.execute(sqlalchemy.text("SELECT * FROM operations")).all() == before
    assert done.wait(10)
    thread.join()
    where.discard(db)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_upgrade_that_waits_in_vain_changes_nothing(
    kind: str, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(kind)
    db = where.bare(quick)
    schema1.make(db)
    short = {family: [text.replace("30", "1") for text in texts] for family, texts in FIRST_WORDS.items()}
    monkeypatch.setattr(servers, "FIRST_WORDS", short)
    impatient = where.apart(db)
    with engine(db).connect() as connection:
        connection.execute(sqlalchemy.text("SELECT * FROM operations")).all()
        with pytest.raises(DatabaseError, match=r"(?i)lock") as caught:
            impatient.upgrade()
        assert caught.value.code == 9
    assert db.schema() == "1"
    assert impatient.upgrade() == TOLD
    as_made(db, where, quick)
    impatient.close()
    where.discard(db)
