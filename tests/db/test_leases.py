"""Leases: how the owners of operations on other machines are known to be alive or gone."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl import owner
from novactl.db import operations
from novactl.db.journal import DbJournal, Owner
from novactl.db.session import Database
from novactl.engine.heartbeat import Heartbeat
from novactl.engine.operation import Operation, OpState, Plan
from novactl.errors import DatabaseError
from tests.support.clock import SimClock
from tests.support.databases import Place, place
from tests.support.toys import TOYS

SHORT = 1.0  # seconds


def journal(db: Database, name: str = "a", lease: float = SHORT) -> DbJournal:
    """One process's."""
    return DbJournal(db, TOYS, SimClock(), Owner(words=name, user=name, key={"of": name}), lease)


def submit(journal: DbJournal, op_id: str = "op-1") -> Operation:
    plan = Plan(
        kind="toy", target="web1", target_uuid=None, project="", request={}, locks=frozenset(), epoch=1
    )
    return journal.db.write(lambda tx: journal.insert(tx, op_id, plan))


def expired(db: Database, op_id: str = "op-1") -> bool:
    return db.read(lambda tx: operations.owner(tx, op_id))[1]


def until(db: Database, op_id: str = "op-1") -> float:
    """Seconds that its lease goes on."""
    row: Any = db.read(
        lambda tx: {**tx.one("SELECT * FROM operations WHERE id = :id", id=op_id), "now": tx.now()}
    )  # type: ignore[dict-item]
    return float(row["lease_until"] - row["now"])


@pytest.fixture
def other(db: Database, everywhere: Place) -> Iterator[Database]:
    """The database as another machine has it."""
    found = everywhere.apart(db)
    yield found
    found.close()


# --- in the database ---


def test_a_lease_runs_from_the_start_of_the_operation(db: Database, other: Database) -> None:
    first = journal(db)
    submit(first)
    assert 0 < until(other) <= SHORT
    assert other.read(lambda tx: operations.owner(tx, "op-1")) == ({"of": "a"}, False)
    assert other.read(lambda tx: operations.runner(tx, "op-1")) == first.owner.runner
    time.sleep(SHORT + 0.1)
    assert expired(other)


def test_one_that_is_not_there_is_expired(db: Database) -> None:
    assert db.read(lambda tx: operations.owner(tx, "op-9")) == ({}, True)
    assert db.read(lambda tx: operations.runner(tx, "op-9")) is None


def test_an_operation_of_an_older_novactl_has_no_lease(db: Database) -> None:
    submit(journal(db))
    db.write(lambda tx: tx.run("UPDATE operations SET lease_until = NULL, runner = NULL"))
    assert expired(db)


def test_a_renewal_is_of_this_process_s_operations_that_go_on(db: Database, other: Database) -> None:
    mine, theirs = journal(db, lease=60), journal(other, "b")
    op = submit(mine, "op-1")
    submit(theirs, "op-2")
    ended = submit(mine, "op-3")
    mine.turn(ended, OpState.DONE)
    db.write(lambda tx: tx.run("UPDATE operations SET lease_until = :now", now=tx.now() - 1))
    mine.renew()
    assert [expired(other, f"op-{n}") for n in (1, 2, 3)] == [False, True, True]
    assert 59 < until(other, op.id) <= 60


def test_who_takes_over_has_the_lease_and_the_older_one_renews_it_no_more(
    db: Database, other: Database
) -> None:
    first, second = journal(db), journal(other, "b", lease=60)
    submit(first)
    op = second.load("op-1")
    other.write(lambda tx: second.take(tx, op, 2))
    assert 59 < until(db) <= 60
    first.renew()
    assert until(db) > 50
    assert db.read(lambda tx: operations.owner(tx, "op-1")) == ({"of": "b"}, False)


def test_wishes_are_of_this_process_s_active_operations(db: Database, other: Database) -> None:
    mine, theirs = journal(db), journal(other, "b")
    for op_id in ("op-1", "op-2", "op-3"):
        submit(mine, op_id)
    submit(theirs, "op-4")
    mine.turn(mine.load("op-2"), OpState.DONE)
    assert mine.wishes() == {"op-1": False, "op-3": False}
    for op_id in ("op-1", "op-2", "op-4"):
        other.write(lambda tx, op_id=op_id: operations.request_cancel(tx, op_id))  # type: ignore[misc]
    assert mine.wishes() == {"op-1": True, "op-3": False}
    assert theirs.wishes() == {"op-4": True}


# --- the heartbeat ---


def test_a_heartbeat_keeps_the_lease_while_it_beats(db: Database, other: Database) -> None:
    mine = journal(db)
    submit(mine)
    looks = []
    with Heartbeat(mine).beating():
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            looks.append(expired(other))
            time.sleep(0.05)
    assert not any(looks)
    time.sleep(SHORT + 0.2)
    assert expired(other)  # it has stopped


def test_it_beats_until_the_last_one_leaves(db: Database) -> None:
    mine = journal(db)
    submit(mine)
    heartbeat = Heartbeat(mine)
    with heartbeat.beating():
        with heartbeat.beating():
            pass
        time.sleep(SHORT + 0.3)
        assert not expired(db)
    with heartbeat.beating():  # and again
        time.sleep(0.6)
        assert not expired(db)
    before = threading.active_count()
    time.sleep(0.5)
    assert threading.active_count() <= before


def test_a_wish_to_cancel_is_seen_soon(db: Database, other: Database) -> None:
    mine = journal(db)
    submit(mine)
    heartbeat = Heartbeat(mine)
    with heartbeat.beating():
        assert not heartbeat.cancelled("op-1")
        other.write(lambda tx: operations.request_cancel(tx, "op-1"))
        deadline = time.monotonic() + 3
        while not heartbeat.cancelled("op-1"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not heartbeat.cancelled("op-2")


def test_that_it_was_taken_over_is_seen_soon(db: Database, other: Database) -> None:
    mine, theirs = journal(db), journal(other, "b")
    submit(mine)
    heartbeat = Heartbeat(mine)
    assert not heartbeat.missing("op-1")  # nobody has looked yet
    with heartbeat.beating():
        time.sleep(0.6)
        assert not heartbeat.missing("op-1")
        op = theirs.load("op-1")
        other.write(lambda tx: theirs.take(tx, op, 2))
        deadline = time.monotonic() + 3
        while not heartbeat.missing("op-1"):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_heartbeat_outlives_a_database_that_is_away(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = place("sqlite").fresh(quick)
    mine = journal(db)
    submit(mine)
    failures: list[int] = []
    renew = mine.renew

    def sometimes() -> None:
        failures.append(1)
        if len(failures) < 3:
            raise DatabaseError("away")
        renew()

    monkeypatch.setattr(mine, "renew", sometimes)
    with Heartbeat(mine).beating():
        time.sleep(SHORT + 0.5)
        assert len(failures) > 3
        assert not expired(db)
    db.close()


# --- who is alive ---

HERE = owner.this_process().key


@pytest.mark.parametrize("shared", [False, True], ids=["file", "server"])
@pytest.mark.parametrize("lapsed", [False, True], ids=["leased", "expired"])
@pytest.mark.parametrize(
    ("change", "alive"),
    [  # (not expired on a file, not expired on a server); expired ones are gone
        ({}, (True, True)),
        ({"machine": "another"}, (True, True)),  # machine ids prove nothing
        ({"pid": 1 << 22}, (False, False)),  # no such process
        ({"started": "1"}, (False, False)),  # the pid was given to another
        ({"boot": "another"}, (False, True)),  # another machine, or this one before it went down
        ({"boot": "another", "pid": 1 << 22}, (False, True)),
        ({"pid_namespace": 1}, (True, True)),  # a container: cannot be looked at
        ({"pid_namespace": 1, "pid": 1 << 22}, (True, True)),
    ],
)
def test_who_is_alive(change: dict[str, Any], alive: tuple[bool, bool], lapsed: bool, shared: bool) -> None:
    found = owner.alive({**HERE, **change}, expired=lapsed, shared=shared)
    assert found == (alive[shared] and not lapsed)


def test_an_owner_that_nobody_knows_is_gone() -> None:
    assert not owner.alive({}, expired=False, shared=True)


def test_a_process_that_ended_is_gone_though_nobody_reaped_it() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        os.read(reader, 1)
        os._exit(0)
    key = {**HERE, "pid": child, "started": owner._started(child)}
    assert owner.alive(key, expired=False, shared=False)
    os.write(writer, b"x")
    deadline = time.monotonic() + 5
    while owner.alive(key, expired=False, shared=False):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
