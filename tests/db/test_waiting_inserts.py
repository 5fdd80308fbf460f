"""Rows to insert wait for whoever may see them (session.Inserting)."""

import contextlib

import pytest

from novactl.db import tables
from novactl.db.session import PARENTS, Database, Tx, count_up, foresee, meta, set_meta
from novactl.errors import DatabaseError


def hold(tx: Tx, uuid: str) -> None:
    sizes = {"vcpus": 1, "memory_mib": 1, "disk_gib": 1}
    tx.insert("holds", instance_uuid=uuid, host="h1", role="instance", numa=None, **sizes)


def uuids(tx: Tx) -> list[str]:
    return [row["instance_uuid"] for row in tx.all("SELECT instance_uuid FROM holds ORDER BY instance_uuid")]


def test_a_transaction_sees_and_changes_its_own(db: Database):
    with db.writing() as tx:
        hold(tx, "a")
        assert tx.run("UPDATE holds SET vcpus = 2") == 1
        hold(tx, "b")
        assert uuids(tx) == ["a", "b"]
    assert db.read(uuids) == ["a", "b"]


def test_what_waits_at_a_savepoint_belongs_before_it(db: Database):
    with db.writing() as tx:
        hold(tx, "before")
        tx.run("SAVEPOINT one")
        hold(tx, "taken-back")
        tx.run("ROLLBACK TO SAVEPOINT one")
        hold(tx, "after")
    assert db.read(uuids) == ["after", "before"]


def test_nothing_waits_beyond_a_rollback(db: Database):
    with contextlib.suppress(ZeroDivisionError), db.writing() as tx:
        hold(tx, "a")
        raise ZeroDivisionError
    assert db.read(uuids) == []


def test_what_nobody_asks_the_answer_of_waits_too(db: Database):
    change = "UPDATE holds SET vcpus = :vcpus WHERE instance_uuid = 'a'"
    with db.writing() as tx:
        hold(tx, "a")
        tx.settle()
        for vcpus in (2, 3):
            tx.later("holds", "a", change, vcpus=vcpus)
        assert tx.one("SELECT vcpus FROM holds") == {"vcpus": 3}
        tx.later("holds", "a", change, vcpus=4)
    assert db.read(lambda tx: tx.one("SELECT vcpus FROM holds")) == {"vcpus": 4}


def test_more_rows_than_go_into_one_statement(db: Database):
    names = [f"u{n:03}" for n in range(101)]
    with db.writing() as tx:
        for name in names:
            hold(tx, name)
    assert db.read(uuids) == names


def test_what_is_wrong_with_a_row_is_told(db: Database):
    with pytest.raises(DatabaseError, match=r"(?i)unique|duplicate"), db.writing() as tx:
        hold(tx, "a")
        hold(tx, "a")
    assert db.read(uuids) == []


def test_counters_that_are_read_beforehand(db: Database):
    with db.writing() as tx:
        set_meta(tx, "old", "1")
    with db.writing() as tx:
        foresee(tx, "old", "new", "other")
        assert [meta(tx, name) for name in ("old", "new", "other")] == ["1", None, None]
        assert [count_up(tx, "old"), count_up(tx, "new"), count_up(tx, "old"), count_up(tx, "new", 5)] == [
            *(2, 1, 3, 6)
        ]
        sql = "SELECT value FROM meta WHERE name IN ('old', 'new') ORDER BY name"
        assert [row["value"] for row in tx.all(sql)] == ["6", "3"]
        assert count_up(tx, "old") == 4
    assert db.read(lambda tx: [meta(tx, name) for name in ("old", "new", "other")]) == ["4", "6", None]


def test_tables_that_others_refer_to_are_written_first():
    named = {key.column.table.name for table in tables.metadata.tables.values() for key in table.foreign_keys}
    assert named == set(PARENTS)
