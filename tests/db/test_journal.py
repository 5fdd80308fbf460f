"""The journal in the database: the runner's promises hold on it, and what it writes is what it reads."""

import itertools
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.db.operations import listed, owner
from novactl.db.session import Database
from novactl.engine.operation import ACTIVE, Lock, Mode, OpState
from novactl.errors import Busy, DatabaseError, OperationFailed, OperationIncomplete, Refused
from novactl.version import __version__
from tests.support.databases import KINDS, Place, place
from tests.support.toys import (
    Bench,
    BenchMaker,
    Claim,
    Note,
    OnDatabase,
    Put,
    database_bench,
    memory_bench,
)

pytest.register_assert_rewrite("tests.support.runner_contract")
from tests.support.runner_contract import RunnerContract  # noqa: E402


@pytest.fixture
def make(everywhere: Place, quick: Path) -> Iterator[BenchMaker]:
    """Benches on databases of each kind; the one before the last two is not in use any more."""
    made: deque[Database] = deque()
    numbers = itertools.count()

    def one() -> Bench:
        if len(made) > 1:
            everywhere.release(made.popleft())
        made.append(everywhere.fresh(quick / str(next(numbers))))
        return database_bench(made[-1])

    yield one
    for db in made:
        everywhere.release(db)


class TestOnDatabases(RunnerContract):
    @pytest.fixture
    def make(self, make: BenchMaker) -> BenchMaker:
        return make


@pytest.fixture
def bench(make: BenchMaker) -> Bench:
    return make()


@pytest.fixture(params=["memory", *KINDS])
def either(request: pytest.FixtureRequest, quick: Path) -> Iterator[Bench]:
    """Each journal: the fake keeps what the real ones keep."""
    if request.param == "memory":
        yield memory_bench()
        return
    db = place(request.param).fresh(quick)
    yield database_bench(db)
    place(request.param).release(db)


def journal(bench: Bench) -> Any:
    return bench.journaled.journal


def test_each_write_is_there_for_the_next_process(either: Bench) -> None:
    op = either.submit(Put(key="disk"), Note(key="note"))
    disk, note = op.records
    writes = journal(either)
    writes.started(op, disk)
    assert either.states() == {"disk": "started", "note": "pending"}
    disk.result = {"size": 5, "words": ["é", None]}
    writes.done(op, disk)
    stored = either.load().records[0]
    assert (stored.state, stored.result) == ("done", {"size": 5, "words": ["é", None]})
    assert stored.started_at is not None
    assert stored.finished_at is not None
    assert stored.started_at < stored.finished_at
    writes.failed(op, note, "no")
    assert (either.load().records[1].state, either.load().records[1].error) == ("failed", "no")
    writes.undone(op, note)
    writes.stuck(op, disk, "gone")
    assert either.states() == {"disk": "stuck", "note": "undone"}
    writes.done(op, disk)
    assert either.load().records[0].error is None


@pytest.mark.parametrize("write", ["done", "undone"])
def test_an_effect_and_its_record_are_one_transaction(either: Bench, write: str) -> None:
    op = either.submit(Note(key="note"))

    def half_way(tx: Any) -> None:
        tx.insert("meta", name="half", value="done")
        raise Refused("no")

    with pytest.raises(Refused):
        getattr(journal(either), write)(op, op.records[0], half_way)
    assert either.left() == set()
    assert either.states() == {"note": "pending"}
    assert op.records[0].state == "pending"


def test_turns(either: Bench) -> None:
    op = either.submit(Put(key="disk"))
    writes = journal(either)
    writes.turn(op, OpState.RUNNING)
    writes.turn(op, OpState.INCOMPLETE, "left")
    assert (either.load().state, either.load().error, either.load().finished_at) == (
        "incomplete",
        "left",
        None,
    )
    assert len(either.journaled.held()) == 1
    writes.turn(op, OpState.UNDOING)
    assert either.load().error == "left"
    writes.turn(op, OpState.DONE)
    assert (either.load().state, either.load().error) == ("done", None)
    assert either.load().finished_at is not None
    assert either.journaled.held() == set()
    assert either.journaled.ended() == [(op.id, "incomplete"), (op.id, "done")]


@pytest.mark.parametrize("state", sorted(OpState))
def test_active_states_hold_their_locks(either: Bench, state: OpState) -> None:
    op = either.submit(Put(key="disk"))
    journal(either).turn(op, state, "why")
    assert bool(either.journaled.held()) == (state in ACTIVE)


# --- what only the database has ---


def test_busy_names_id_owner_and_age(bench: Bench) -> None:
    locks = frozenset({Lock("instance", "u-1", Mode.EXCLUSIVE)})
    holder = bench.submit(Put(key="a"), locks=locks, target="web1")
    with pytest.raises(Busy) as caught:
        bench.submit(Put(key="b"), locks=locks)
    assert caught.value.message.startswith(
        f"instance is held by toy of web1: operation {holder.id}, planned, of tester@here (pid 1), "
    )
    assert caught.value.message.endswith(" s old")
    assert f"novactl op resume {holder.id}" in caught.value.hint


def test_the_age_in_busy_is_by_the_clock_of_the_journal(bench: Bench) -> None:
    locks = frozenset({Lock("instance", "u-1", Mode.EXCLUSIVE)})
    bench.submit(Put(key="a"), locks=locks)
    bench.world.clock.sleep(75)
    with pytest.raises(Busy, match=r", 75 s old$"):
        bench.submit(Put(key="b"), locks=locks)


def test_the_database_itself_keeps_a_second_exclusive_lock_out(bench: Bench) -> None:
    first = bench.submit(Put(key="a"))
    assert isinstance(bench.journaled, OnDatabase)
    row = {"kind": "instance", "id": "u-1", "mode": "X", "exclusive": "instance/u-1"}
    with pytest.raises(DatabaseError, match=r"UNIQUE|[Dd]uplicate"), bench.journaled.db.writing() as tx:
        tx.insert("op_locks", operation=first.id, **{**row, "id": "u-1b"})


def test_listed(bench: Bench) -> None:
    locks = [frozenset({Lock("instance", name, Mode.EXCLUSIVE)}) for name in ("a", "b", "c")]
    done = bench.submit(Put(key="a"), Put(key="b"), locks=locks[0])
    failed = bench.submit(Put(key="c"), locks=locks[1])
    waiting = bench.submit(Claim(key="d"), Put(key="e"), locks=locks[2])
    bench.runner().run(done)
    bench.world.faults[("do", "c")] = Refused("no")
    with pytest.raises(OperationFailed):
        bench.runner().run(failed)
    assert isinstance(bench.journaled, OnDatabase)
    with bench.journaled.db.reading() as tx:
        rows = [(op.id, str(op.state), n, total) for op, n, total in listed(tx)]
        active = [op.id for op, _, _ in listed(tx, active=True)]
        newest = [op.id for op, _, _ in listed(tx, limit=1)]
        none = listed(tx, parent="op-9")
        key = owner(tx, done.id)[0]
    assert rows == [
        (waiting.id, "planned", 1, 2),
        (failed.id, "undone", 0, 1),
        (done.id, "done", 2, 2),
    ]
    assert (active, newest, none) == ([waiting.id], [waiting.id], [])
    assert key == {"pid": 1}


def test_an_operation_of_another_novactl_is_refused_by_name(bench: Bench) -> None:
    op = bench.submit(Put(key="a"))
    assert isinstance(bench.journaled, OnDatabase)
    future = {"type": "put", "version": 2, "fields": {"key": "a", "host": None, "mode": 1}}
    with bench.journaled.db.writing() as tx:
        tx.run("UPDATE steps SET step = :step", step=json.dumps(future))
        tx.run("UPDATE operations SET written_by = '7.7.7'")
    with pytest.raises(DatabaseError, match=r"^journal: step 'put' version 2 is not known here$") as caught:
        bench.load(op.id)
    assert caught.value.hint == "it was written by novactl 7.7.7: use that version for this operation"
    assert op.written_by == __version__


def test_take_gives_it_another_owner_and_epoch(bench: Bench) -> None:
    op = bench.submit(Put(key="a"))
    assert isinstance(bench.journaled, OnDatabase)
    with bench.journaled.db.writing() as tx:
        journal(bench).take(tx, op, 7)
    assert (bench.load().epoch, bench.load().owner) == (7, "tester@here (pid 1)")


def test_an_incomplete_operation_keeps_others_out_until_it_is_ended(bench: Bench) -> None:
    op = bench.submit(Put(key="a"), Put(key="b"))
    bench.world.faults = {("do", "b"): Refused("no"), ("undo", "a"): Refused("no")}
    with pytest.raises(OperationIncomplete):
        bench.runner().run(op)
    with pytest.raises(Busy, match=rf"operation {op.id}, incomplete, of "):
        bench.submit(Put(key="c"))
    bench.world.faults.clear()
    bench.runner().roll_back(bench.load(op.id))
    bench.submit(Put(key="c"))
