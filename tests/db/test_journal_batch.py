"""Operations that are journaled at once."""

import pytest

from novactl.actions.steps import REGISTRY
from novactl.db.journal import DbJournal, Owner
from novactl.db.session import Database
from novactl.engine.operation import Lock, Mode, Plan
from novactl.errors import Busy
from tests.support.clock import SimClock


def plan(target: str, mode: Mode) -> Plan:
    locks = frozenset({Lock("host", "h1", mode)})
    return Plan(kind="k", target=target, target_uuid=None, project="", request={}, locks=locks)


def journal(db: Database) -> DbJournal:
    return DbJournal(db, REGISTRY, SimClock(), Owner(words="me", user="me", key={}))


def test_those_that_share_are_in_order_with_marks_of_their_own(db: Database):
    plans = {f"op-{n}": plan(f"t{n}", Mode.SHARED) for n in range(3)}
    ops = db.write(lambda tx: journal(db).insert_all(tx, plans))
    assert [op.id for op in ops] == list(plans)
    first = int(ops[0].mark.partition(".")[0])
    assert [op.mark for op in ops] == [f"{first + n:012d}.op-{n}" for n in range(3)]
    later = db.write(lambda tx: journal(db).insert(tx, "op-3", plan("t3", Mode.SHARED)))
    assert later.mark == f"{first + 3:012d}.op-3"


@pytest.mark.parametrize("modes", [(Mode.SHARED, Mode.EXCLUSIVE), (Mode.EXCLUSIVE, Mode.SHARED)])
def test_two_that_want_one_lock_are_refused_and_nothing_stays(db: Database, modes: tuple[Mode, Mode]):
    plans = {f"op-{n}": plan(f"t{n}", mode) for n, mode in enumerate(modes)}
    with pytest.raises(Busy, match="host is held by k of t0: operation op-0"):
        db.write(lambda tx: journal(db).insert_all(tx, plans))
    assert db.read(lambda tx: tx.all("SELECT id FROM operations")) == []
