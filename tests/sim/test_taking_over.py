"""Who may go on with an operation, when several want to: the database's word and the hosts' decide."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import guest, handover, recover
from novactl.db import addresses, hosts, instances
from novactl.engine.operation import OpState
from novactl.errors import Busy, Fenced, Interrupted, OperationIncomplete, Refused
from novactl.virt.domain import Marks
from tests.sim.actions import boot, delete, stop
from tests.support import databases
from tests.support.sim import Fault, SimFleet, settled
from tests.support.toys import DieAt, Died

DEFINES = 8  # the step of a boot that defines the domain


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    fleet = SimFleet(quick)
    yield fleet
    fleet.close()


def state(fleet: SimFleet, op_id: str) -> str:
    with fleet.db.reading() as tx:
        return str((tx.one("SELECT state FROM operations WHERE id = :id", id=op_id) or {})["state"])


def left(fleet: SimFleet, name: str = "web1", at: int = 6) -> str:
    """A boot whose owner died in the middle; its id."""
    before = set(fleet.active())
    with pytest.raises(Died):
        fleet.run(boot(name), failpoints=DieAt("after-intent", at))
    (op_id,) = set(fleet.active()) - before
    return op_id


class At:
    """Failpoints: something happens once, at an instant of a step."""

    def __init__(self, point: str, name: str, does: Callable[[], object]) -> None:
        self.at: tuple[str, str] | None = (point, name)
        self.does = does

    def reach(self, point: str, record: Any) -> None:
        if (point, record.name) == self.at:
            self.at = None
            self.does()


def test_an_operation_that_somebody_took_is_not_abandoned(fleet: SimFleet) -> None:
    """A delete finds a boot that can be neither finished nor undone; before it has decided, another
    process takes that over."""
    fleet.faults += [Fault("start", "fails", "kvm1"), Fault("undefine_if_made_by", "fails", "kvm1", times=2)]
    assert fleet.run(boot()).code == 11
    (op_id,) = fleet.active()
    with fleet.process("d") as deleter, fleet.process("r") as taker:
        stuck = recover.make_way(deleter.operator, Busy("held", operation=op_id), _record(fleet))
        assert stuck.state is OpState.INCOMPLETE
        theirs, _ = taker.world.db.write(lambda tx: recover._taken(taker.operator, tx, op_id))
        with pytest.raises(Fenced):
            deleter.world.db.write(lambda tx: deleter.journal.abandon(tx, stuck, "cleaned up"))
        assert state(fleet, op_id) == "running"
        taker.operator.runner().roll_back(theirs)
    assert settled(fleet) == []


def test_what_has_ended_cannot_be_written_any_more(fleet: SimFleet) -> None:
    op_id = left(fleet)
    with fleet.process("b") as process:
        op, _ = process.world.db.write(lambda tx: recover._taken(process.operator, tx, op_id))
        process.operator.runner().roll_back(op)
        op.state = OpState.RUNNING  # an object that has not heard of it
        with pytest.raises(Fenced):
            process.journal.turn(op, OpState.DONE)
    assert state(fleet, op_id) == "undone"


def _record(fleet: SimFleet) -> Any:
    with fleet.db.reading() as tx:
        return instances.everything(tx)[0]


def test_two_deletes_do_not_cancel_each_other(fleet: SimFleet) -> None:
    fleet.run(boot())
    with fleet.process("a") as first:
        handed = handover.journal(first.operator, [delete()], together=False)
        assert fleet.run(delete(), name="b").code == 6
        (op,) = [op for op in handed.ops if op]
        assert not first.journal.refresh_cancel(op)
        family = handover.take_up(first.operator, op.id, first.journal.owner.runner)
        assert [outcome.code for outcome in handover.carry_out(first.operator, family)] == [0]
    assert settled(fleet) == []


def test_a_restored_database_undoes_nothing_that_the_hosts_know_better(fleet: SimFleet, quick: Path) -> None:
    """The copy was made during a boot; that ended well, and the guest was stopped since."""
    kept: list[dict[str, Any]] = []
    fleet.run(
        boot(),
        failpoints=At("after-record", "make-directory", lambda: kept.append(databases.content(fleet.db))),
    )
    fleet.run(stop())
    before = fleet.hosts["kvm1"].everything()
    with fleet.db.writing(adopting=True) as tx:
        for table in reversed(kept[0]):
            tx.run(f"DELETE FROM {table}")
        for table, rows in kept[0].items():
            for row in rows:
                tx.insert(table, **row)
    (op_id,) = fleet.active()
    fleet.living.clear()
    for back in (True, False):
        with pytest.raises((Refused, OperationIncomplete)) as caught:
            fleet.take_over(op_id, back=back)
        assert "audit --adopt" in caught.value.hint or "older copy" in caught.value.message
    assert fleet.hosts["kvm1"].everything() == before


def test_ctrl_c_in_resume_all_leaves_the_rest_alone(fleet: SimFleet) -> None:
    ids = [left(fleet, f"web{n}", 9) for n in range(1, 4)]
    with fleet.process("b", At("after-act", "start-domain", lambda: process.interrupt.set())) as process:
        outcomes = recover.take_over_all(process.operator)
    assert [outcome.result for outcome in outcomes] == ["failed", "skipped", "skipped"]
    assert [isinstance(outcome.error, Interrupted) for outcome in outcomes] == [True, True, True]
    assert sorted(state(fleet, op_id) for op_id in ids) == ["running", "running", "undone"]
    with fleet.process("c") as process:
        assert {outcome.code for outcome in recover.take_over_all(process.operator)} == {0}


def test_signals_are_armed_until_the_last_work_has_ended(fleet: SimFleet) -> None:
    with fleet.process() as process:
        with process.operator.working():
            with process.operator.working():
                pass
            assert process.interrupt.armed
        assert not process.interrupt.armed


def test_op_run_leaves_children_alone_that_somebody_works_on(fleet: SimFleet) -> None:
    with fleet.process("a") as giver:
        handed = handover.journal(giver.operator, [boot("web1"), boot("web2")], together=True)
    head = handed.head
    assert head is not None
    first, second = [op.id for op in handed.ops if op]

    def meanwhile() -> None:
        with fleet.process("c") as other:
            family = handover.take_up(other.operator, head.id, None)
            assert [op.id for op in family] == [head.id, second]
            assert [outcome.code for outcome in handover.carry_out(other.operator, family)] == [0]

    with fleet.process("b", At("after-act", "make-directory", meanwhile)) as resumer:
        assert recover.take_over(resumer.operator, first, back=False).state is OpState.DONE
    fleet.take_over(head.id, back=False)
    assert settled(fleet) == []


def test_a_cancelled_parent_has_no_more_children(fleet: SimFleet) -> None:
    with fleet.process("a") as process:
        parent = process.operator.parent([boot("web1"), boot("web2")])
        assert parent is not None
        with fleet.process("b") as other:
            recover.cancel(other.operator, parent.id)
        with pytest.raises(Interrupted):
            process.operator.submit(boot("web1"), parent, OpState.RUNNING)
        process.operator.end(parent)
    assert settled(fleet) == []


def test_who_waits_sees_that_the_runner_has_died(fleet: SimFleet) -> None:
    with fleet.process("a") as giver:
        handed = handover.journal(giver.operator, [boot()], together=False)
        assert handed.head is not None
        with pytest.raises(Died), fleet.process("b", DieAt("after-intent", 5)) as runner:
            family = handover.take_up(runner.operator, handed.head.id, giver.journal.owner.runner)
            handover.carry_out(runner.operator, family)
        handover.follow(giver.operator, handed, 60)
        assert [outcome.code for outcome in handed.outcomes] == [11]
        handover.take_back(giver.operator, handed)
    assert state(fleet, handed.head.id) == "undone"
    assert settled(fleet) == []


def test_a_restored_database_ends_the_attempts_and_not_the_undo(fleet: SimFleet) -> None:
    def forget() -> None:
        with fleet.db.writing(adopting=True) as tx:
            tx.insert("meta", name="restored", value="kvm3 knows better")

    fleet.faults.append(Fault("start", "fails", "kvm1"))
    outcome = fleet.run(boot(), failpoints=At("before-undo", "start-domain", forget))
    assert outcome.code == 1
    with fleet.db.writing(adopting=True) as tx:
        tx.run("DELETE FROM meta WHERE name = 'restored'")
    assert settled(fleet) == []


def test_what_a_host_says_may_hold_anything(fleet: SimFleet) -> None:
    op_id = left(fleet)
    with fleet.process("b") as process:
        op, _ = process.world.db.write(lambda tx: recover._taken(process.operator, tx, op_id))
        process.journal.failed(op, op.records[-1], "zeros \0\0 of a power cut")
        process.operator.runner().roll_back(op)
    with fleet.db.reading() as tx:
        errors = [row["error"] for row in tx.all("SELECT error FROM steps WHERE error IS NOT NULL")]
    assert all("\0" not in error for error in errors)


def test_many_boots_look_at_each_address_once(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one transaction, which all others wait for, takes minutes for a thousand."""
    fleet = SimFleet(quick, hosts_=3, vcpus=10000, memory_mib=10_000_000, disk_gib=100_000)
    with fleet.db.writing() as tx:
        tx.run("UPDATE networks SET cidr = '10.0.0.0/16', gateway = '10.0.0.1', dns = '[]', pool = NULL")
    asked: list[str] = []
    real = addresses.taken
    monkeypatch.setattr(addresses, "taken", lambda tx, of, ips: asked.extend(ips) or real(tx, of, ips))
    with fleet.process() as process:
        shown = process.operator.show([boot(f"web{n}") for n in range(300)])
    assert len({tuple(plan["changes"]["addresses"].values()) for plan in shown}) == 300
    assert len(asked) == 300
    fleet.close()


def test_no_thread_outlives_the_work(fleet: SimFleet) -> None:
    before = threading.active_count()
    fleet.run(boot())
    assert threading.active_count() <= before


@pytest.mark.parametrize("point", ["after-intent", "after-act"])
@pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
def test_a_boot_of_an_older_novactl_has_its_domain_in_the_journal(
    fleet: SimFleet, point: str, back: bool
) -> None:
    """Version 1 of define-domain carried the XML; now it is made from the record."""
    with pytest.raises(Died):
        fleet.run(boot(), failpoints=DieAt(point, DEFINES))
    (op_id,) = fleet.active()
    with fleet.process("older") as older, fleet.db.writing() as tx:
        of = {"op": op_id, "n": DEFINES}
        row = tx.one("SELECT step FROM steps WHERE operation = :op AND n = :n", **of) or {}
        step = json.loads(row["step"])
        assert (step["type"], step["version"]) == ("define-domain", 2)
        uuid, world = step["fields"]["uuid"], older.operator.world
        marks = Marks(fleet=world.fleet, operation=op_id, epoch=1, generation=1)
        host = hosts.get(tx, "kvm1")
        xml = guest.domain_xml(instances.get(tx, uuid), host, marks, world.template("domain.xml"))
        fields = {**step["fields"], "xml": xml.replace('discard="unmap"', 'discard="ignore"')}
        older_step = json.dumps({**step, "version": 1, "fields": fields})
        tx.run("UPDATE steps SET step = :step WHERE operation = :op AND n = :n", step=older_step, **of)
    assert fleet.take_over(op_id, back=back).state is (OpState.UNDONE if back else OpState.DONE)
    if not back:
        assert 'discard="ignore"' in fleet.hosts["kvm1"].domains[uuid].xml
    assert settled(fleet) == []
