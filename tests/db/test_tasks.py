"""Tasks of cron: of many who want one, one gets it; whoever dies with it loses it."""

from typing import Any

import pytest

from novactl.db import tasks
from novactl.db.session import Database, Tx
from tests.support.databases import Place, in_processes

WHEN = "2026-01-01T00:00:00.000000Z"
LEASE = 60.0


def runner(name: str = "a", boot: str = "b0071234-aaaa", shared: bool = True) -> tasks.Runner:
    return tasks.Runner.of(name * 32, boot, shared=shared)


def take(
    db: Database, who: tasks.Runner, *, horizon: float = 700, force: bool = False, lease: float = LEASE
) -> bool:
    return db.write(
        lambda tx: tasks.take(tx, "facts", who, lease, horizon=horizon, due_or_not=force, now=WHEN)
    )


def finish(db: Database, who: tasks.Runner, wait: float = 600, **values: Any) -> bool:
    told = {"result": "done", "message": "", "now": WHEN, "memory": tasks.Memory(), **values}
    return db.write(lambda tx: tasks.finish(tx, "facts", who, wait=wait, **told))


def later(db: Database, seconds: float) -> None:
    """So much time has passed on the database's clock."""

    def work(tx: Tx) -> None:
        tx.run("UPDATE tasks SET due_at = due_at - :s, lease_until = lease_until - :s", s=seconds)

    db.write(work)


def test_one_gets_it(db: Database) -> None:
    assert take(db, runner("a"))
    assert not take(db, runner("b"))
    assert not take(db, runner("b"), force=True)
    assert finish(db, runner("a"))
    assert not take(db, runner("b"))  # it is not due
    later(db, 599)
    assert not take(db, runner("b"))
    later(db, 2)
    assert take(db, runner("b"))
    assert not finish(db, runner("a"))  # it is not the first one's any more


def test_one_that_is_not_due_when_somebody_says_so(db: Database) -> None:
    assert take(db, runner("a")) and finish(db, runner("a"))
    assert take(db, runner("b"), force=True)


def test_after_its_lease_it_is_the_next_ones(db: Database) -> None:
    assert take(db, runner("a"))
    later(db, LEASE - 1)
    assert not take(db, runner("b"))
    db.write(lambda tx: tasks.renew(tx, runner("a"), LEASE))
    later(db, LEASE - 1)
    assert not take(db, runner("b"))
    later(db, 2)
    assert take(db, runner("b"))
    db.write(lambda tx: tasks.renew(tx, runner("a"), 9999))
    db.write(lambda tx: tasks.let_go(tx, "facts", runner("a")))
    assert db.read(lambda tx: tasks.held(tx, runner("a"))) == set()
    assert db.read(lambda tx: tasks.held(tx, runner("b"))) == {"facts"}


def test_let_go_it_is_as_due_as_it_was(db: Database) -> None:
    assert take(db, runner("a"))
    db.write(lambda tx: tasks.let_go(tx, "facts", runner("a")))
    assert take(db, runner("b"))


def test_whoever_was_before_the_machine_started_is_gone(db: Database) -> None:
    """Where no other machine uses the database, its clock begins anew with each boot."""
    before, now = runner("a", "b0071111-a", shared=False), runner("b", "b0072222-b", shared=False)
    assert take(db, before)
    assert not take(db, runner("b", "b0072222-b", shared=True))
    assert take(db, now)
    assert not take(db, runner("c", "b0072222-b", shared=False))


def test_who_looks_sees_what_taking_it_would_say(db: Database) -> None:
    def free(who: tasks.Runner) -> bool:
        return tasks.is_free(db.read(tasks.all_of).get("facts"), who)

    mine, theirs = runner("a", "b0071111-a", shared=False), runner("b", "b0072222-b", shared=False)
    assert free(mine)
    assert take(db, mine)
    assert not free(runner("c", "b0071111-c", shared=False)) and not free(runner("c", "b0072222-c"))
    assert free(theirs)  # of another boot, and no other machine is there
    later(db, LEASE + 1)
    assert free(runner("c", "b0071111-c"))
    later(db, -1e6)
    assert free(runner("c", "b0071111-c"))
    assert finish(db, mine) and free(runner("c", "b0071111-c"))


def test_a_clock_that_began_anew(db: Database) -> None:
    assert take(db, runner("a")) and finish(db, runner("a"))
    later(db, -1e6)  # due in eleven days, by a clock that was ahead
    assert take(db, runner("b"))
    later(db, -1e6)  # so is the lease
    assert take(db, runner("c"))


def test_a_shorter_interval_holds_at_once(db: Database) -> None:
    assert take(db, runner("a")) and finish(db, runner("a"), wait=86400)
    assert not take(db, runner("b"), horizon=90000)
    assert take(db, runner("b"), horizon=600)


def test_what_is_remembered(db: Database) -> None:
    memory = tasks.Memory(succeeded_at=WHEN, told={"kvm1": {"since": WHEN, "told": WHEN, "message": "ß"}})
    assert take(db, runner())
    assert finish(db, runner(), result="done", message="well", memory=memory)
    row = db.read(tasks.all_of)["facts"]
    assert (row["result"], row["message"], row["finished_at"], row["runner"]) == ("done", "well", WHEN, None)
    assert row["memory"] == memory
    assert row["due_at"] - row["now"] == pytest.approx(600, abs=5)
    assert tasks.due_at(row, WHEN)[:15] == "2026-01-01T00:0"
    assert tasks.is_due(row, 700) is False and tasks.is_due(None, 700) is True


def test_slots_of_policies(db: Database) -> None:
    assert db.read(tasks.slots) == {}
    for name in ("a", "b", "c"):
        db.write(lambda tx, name=name: tasks.keep_slot(tx, name, WHEN, {"b", "c"}))
    assert db.read(tasks.slots) == {"b": WHEN, "c": WHEN}


def wanting(db: Database, number: int) -> int:
    """How often one of many processes got it, in ten tries."""
    who = tasks.Runner.of(f"{number:032d}", "b0071234-aaaa", shared=True)
    got = 0
    for _ in range(10):
        got += take(db, who)
    return got


def test_of_twenty_at_once_one_gets_it(everywhere: Place, quick: Any) -> None:
    db = everywhere.fresh(quick)
    assert sum(in_processes(wanting, lambda: everywhere.apart(db), 20)) == 1
    assert len(db.read(lambda tx: tx.all("SELECT * FROM tasks"))) == 1
    everywhere.release(db)
