"""Single stories that the matrix does not tell: failing over, hosts that are away, who is asked."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.actions import recover
from novactl.db import hosts, instances
from novactl.db.operations import events
from novactl.engine.operation import OpState
from novactl.errors import (
    Busy,
    HostUnreachable,
    Interrupted,
    NotFound,
    NoValidHost,
    OperationFailed,
    OperationIncomplete,
    Refused,
)
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState
from tests.sim.actions import boot, delete, start, stop
from tests.support.sim import Fault, SimFleet, always, settled
from tests.support.toys import DieAt, Died


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    made = SimFleet(quick)
    yield made
    made.close()


def instance(fleet: SimFleet, name: str = "web1") -> Instance:
    with fleet.db.reading() as tx:
        return instances.find(tx, name, "default")


def records(fleet: SimFleet, op_id: str) -> list[tuple[int, str, str]]:
    with fleet.process() as process:
        return [(r.attempt, r.name, str(r.state)) for r in process.journal.load(op_id).records]


def test_a_boot_leaves_everything_where_it_belongs(fleet: SimFleet) -> None:
    outcome = fleet.run(boot(image="direct", flavor="disks"))
    found = instance(fleet)
    assert (outcome.result, outcome.code, outcome.uuid) == ("done", 0, found.uuid)
    assert (found.status, found.power_state, found.host) == ("ACTIVE", PowerState.RUNNING, "kvm1")
    host = fleet.hosts["kvm1"]
    assert sorted(host.directories[found.uuid].files) == [
        "console.log",
        "disk",
        "disk.config",
        "disk.info",
        "disk.local",
        "disk.swap",
        "libvirt.xml",
        "user-data.sealed",
    ]
    assert host.directories[found.uuid].made_by == outcome.operation
    assert host.domains[found.uuid].operation == outcome.operation
    assert host.epochs == {found.uuid: 1}
    assert len(host.bases) == 5
    with fleet.db.reading() as tx:
        assert hosts.get(tx, "kvm1").used() == {"vcpus": 1, "memory_mib": 512, "disk_gib": 3}
        assert [(row["action"], row["result"]) for row in events(tx, found.uuid)] == [("boot", "done")]
    assert settled(fleet) == []


def test_the_base_file_is_sent_once(fleet: SimFleet) -> None:
    fleet.run(boot("web1", host="kvm1"))
    fleet.run(boot("web2", host="kvm1"))
    assert fleet.hosts["kvm1"].calls.count("base_receive") == 1


@pytest.mark.parametrize("how", ["fails", "full", "busy"])
def test_the_next_host_takes_over_when_one_fails(fleet: SimFleet, how: str) -> None:
    if how == "busy":  # somebody else works on that very instance there: not the host's fault
        fleet.faults.append(Fault("define", how, times=1))
        outcome = fleet.run(boot())
        assert (outcome.code, str(outcome.error)) == (
            1,
            "boot of web1: kvm1: define: another command works here",
        )
        assert settled(fleet) == []
        return
    fleet.faults += [Fault("start", how, "kvm1"), Fault("overlay", how, "kvm2")]
    outcome = fleet.run(boot())
    assert (outcome.code, instance(fleet).host) == (0, "kvm3")
    assert outcome.operation
    attempts = {attempt for attempt, _, _ in records(fleet, outcome.operation)}
    assert attempts == {0, 1, 2, 3}
    assert len(fleet.told) == 2
    assert fleet.told[0].endswith("; trying kvm2")
    assert settled(fleet) == []
    assert fleet.hosts["kvm1"].everything() == fleet.hosts["kvm2"].everything() == set()


def test_after_three_hosts_it_gives_up(quick: Path) -> None:
    fleet = SimFleet(quick, hosts_=5)
    fleet.faults.append(Fault("start", "fails", times=99))
    outcome = fleet.run(boot())
    assert outcome.code == 1
    assert isinstance(outcome.error, OperationFailed)
    assert outcome.error.message == "boot of web1: kvm3: start failed"
    assert [host.calls.count("start") for host in fleet.hosts.values()] == [1, 1, 1, 0, 0]
    with pytest.raises(NotFound):
        instance(fleet)
    with fleet.db.reading() as tx:
        gone = instances.get(tx, str(outcome.uuid))
        assert gone.fault is not None
        assert "kvm3: start failed" in gone.fault["message"]
    assert settled(fleet) == []
    fleet.faults.clear()
    assert fleet.run(boot()).code == 0  # the name is free
    fleet.close()


def test_a_host_that_was_asked_for_is_the_only_one(fleet: SimFleet) -> None:
    fleet.faults.append(Fault("start", "fails", "kvm2"))
    outcome = fleet.run(boot(host="kvm2"))
    assert (outcome.code, str(outcome.error)) == (1, "boot of web1: kvm2: start failed")
    assert "start" not in fleet.hosts["kvm1"].calls + fleet.hosts["kvm3"].calls
    assert settled(fleet) == []


def test_a_host_that_is_away_is_passed_over(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].up = False
    outcome = fleet.run(boot())
    assert (outcome.code, instance(fleet).host) == (0, "kvm2")
    fleet.hosts["kvm1"].up = True
    assert settled(fleet) == []


def test_a_host_that_goes_away_while_it_is_undone(fleet: SimFleet) -> None:
    fleet.faults += [Fault("start", "fails", "kvm1"), Fault("undefine_if_made_by", "unreachable", "kvm1")]
    outcome = fleet.run(boot())
    assert outcome.code == 11
    assert isinstance(outcome.error, OperationIncomplete)
    assert outcome.error.message == (
        "boot of web1 was left half way at define-domain: kvm1: no answer in time"
    )
    op_id = str(outcome.operation)
    assert f"novactl op resume {op_id}" in outcome.error.hint
    assert always(fleet) == []
    assert instance(fleet).status == "BUILD"
    fleet.hosts["kvm1"].up = False
    assert fleet.run(delete()).code == 7  # what may still be there is not forgotten
    with pytest.raises(OperationIncomplete):
        fleet.take_over(op_id, back=True)
    assert fleet.active() == [op_id]
    fleet.hosts["kvm1"].up = True
    assert fleet.take_over(op_id, back=True).state is OpState.UNDONE
    assert settled(fleet) == []
    assert fleet.hosts["kvm1"].everything() == set()


def test_nothing_is_deleted_on_a_host_that_does_not_answer(fleet: SimFleet) -> None:
    fleet.run(boot())
    fleet.hosts["kvm1"].up = False
    for action in (delete(), stop(), start()):
        outcome = fleet.run(action)
        assert (outcome.code, outcome.operation) == (7, None)
        assert isinstance(outcome.error, HostUnreachable)
        assert str(outcome.error) == "kvm1: no answer in time"
    assert instance(fleet).status == "ACTIVE"
    fleet.hosts["kvm1"].up = True
    assert settled(fleet) == []


def test_a_delete_that_lost_its_host_is_finished_later(fleet: SimFleet) -> None:
    fleet.run(boot())
    fleet.faults.append(Fault("remove_directory", "unreachable", times=2))
    outcome = fleet.run(delete())
    assert outcome.code == 11
    with pytest.raises(Refused, match=r"is past its point of no return$") as caught:
        fleet.take_over(str(outcome.operation), back=True)
    assert caught.value.code == 5
    with fleet.db.reading() as tx:
        assert hosts.get(tx, "kvm1").vcpus_used == 1  # capacity is freed last
    with pytest.raises(OperationIncomplete):
        fleet.take_over(str(outcome.operation), back=False)
    fleet.take_over(str(outcome.operation), back=False)
    assert settled(fleet) == []
    assert fleet.hosts["kvm1"].everything() == set()


def test_an_operation_that_ended_or_is_worked_on_is_not_taken_over(fleet: SimFleet) -> None:
    outcome = fleet.run(boot())
    for back in (False, True):
        with pytest.raises(Refused, match=rf"^{outcome.operation}: is done already$") as refused:
            fleet.take_over(str(outcome.operation), back=back)
        assert refused.value.code == 5
    with pytest.raises(NotFound, match=r"^operation 'op-nine' does not exist$"):
        fleet.take_over("op-nine", back=False)

    class Asks:
        def reach(self, point: str, record: object) -> None:
            (op_id,) = fleet.active()
            with pytest.raises(Busy, match="is working on it") as busy:
                fleet.take_over(op_id, back=True)
            assert busy.value.code == 6

    assert fleet.run(stop(), failpoints=Asks()).code == 0


def test_two_processes_take_over_the_same_operation(fleet: SimFleet) -> None:
    with pytest.raises(Died):
        fleet.run(boot(), failpoints=DieAt("after-act", 4))
    (op_id,) = fleet.active()

    class Second:
        asked = 0

        def reach(self, point: str, record: object) -> None:
            Second.asked += 1
            with pytest.raises(Busy):
                fleet.take_over(op_id, back=Second.asked % 2 == 0, name="c")

    fleet.take_over(op_id, back=False, failpoints=Second())
    assert Second.asked > 10
    assert settled(fleet) == []


def test_two_processes_take_over_the_same_incomplete_operation(fleet: SimFleet) -> None:
    fleet.run(boot())
    fleet.faults.append(Fault("remove_domain", "unreachable"))
    outcome = fleet.run(delete())
    assert outcome.code == 11

    class Second:
        def reach(self, point: str, record: object) -> None:
            with pytest.raises(Busy):
                fleet.take_over(str(outcome.operation), back=False, name="c")

    fleet.take_over(str(outcome.operation), back=False, failpoints=Second())
    assert settled(fleet) == []


def test_stop_is_asked_again_every_ten_seconds_and_forced_after_sixty(fleet: SimFleet) -> None:
    fleet.run(boot())
    uuid = instance(fleet).uuid
    fleet.hosts["kvm1"].domains[uuid].deaf = True
    began = fleet.clock.monotonic()
    outcome = fleet.run(stop())
    assert outcome.code == 0
    assert 60 <= fleet.clock.monotonic() - began < 62
    assert fleet.hosts["kvm1"].calls.count("shutdown") == 6
    assert fleet.hosts["kvm1"].calls.count("destroy") == 1
    with fleet.process() as process:
        assert process.journal.load(str(outcome.operation)).records[1].result == {"forced": True}


def test_what_already_holds_is_left_alone(fleet: SimFleet) -> None:
    fleet.run(boot())
    before = fleet.hosts["kvm1"].calls.copy()
    again = fleet.run(start())
    assert (again.result, again.code, again.operation) == ("unchanged", 0, None)
    assert again.instance is not None
    fleet.run(stop())
    again = fleet.run(stop())
    assert (again.result, again.code) == ("unchanged", 0)
    assert fleet.run(delete("nobody", if_exists=True)).result == "unchanged"
    assert fleet.run(boot(if_not_exists=True)).result == "unchanged"
    assert fleet.hosts["kvm1"].calls[: len(before)] == before


def test_a_guest_that_went_off_by_itself_can_be_started_or_stopped(fleet: SimFleet) -> None:
    fleet.run(boot())
    uuid = instance(fleet).uuid
    fleet.hosts["kvm1"].power_cycle()
    assert fleet.run(start()).result == "done"
    assert uuid in fleet.hosts["kvm1"].running()
    fleet.hosts["kvm1"].power_cycle()
    assert fleet.run(stop()).result == "done"  # the record follows
    assert instance(fleet).status == "SHUTOFF"
    assert settled(fleet) == []


def test_another_operation_s_directory_is_not_touched(fleet: SimFleet) -> None:
    """Something of our uuid that we did not make: boot fails there and leaves it."""
    from tests.support.sim import SimDirectory

    twin = fleet.clone(fleet.directory / "twin") if (fleet.directory / "twin").mkdir() is None else fleet
    twin.run(boot())
    uuid = instance(twin).uuid  # the uuid that the next boot will have, too
    twin.close()
    fleet.hosts["kvm1"].directories[uuid] = SimDirectory("op-other")
    outcome = fleet.run(boot(host="kvm1"))
    assert (outcome.code, outcome.uuid) == (1, uuid)
    assert "exists and is not of this operation" in str(outcome.error)
    assert fleet.hosts["kvm1"].directories[uuid].made_by == "op-other"


def test_no_room_anywhere(quick: Path) -> None:
    fleet = SimFleet(quick, vcpus=1, cpu_ratio=1.0)
    assert [fleet.run(boot(f"web{n}")).code for n in range(1, 5)] == [0, 0, 0, 5]
    refused = fleet.run(boot("web9"))
    assert isinstance(refused.error, NoValidHost)
    assert refused.error.message.startswith("web9: no host can take it\n  kvm1: vcpus: 1 wanted, 0 free of 1")
    assert refused.operation is None
    assert [target["host"] for target in refused.error.targets] == ["kvm1", "kvm2", "kvm3"]
    assert settled(fleet) == []
    fleet.run(delete("web2"))
    assert fleet.run(boot("web9")).code == 0
    fleet.close()


def test_dry_run_shows_the_steps_that_are_journaled(fleet: SimFleet) -> None:
    with fleet.process() as process:
        (shown,) = process.operator.show([boot()])
    assert fleet.active() == []
    with pytest.raises(NotFound):
        instance(fleet)
    outcome = fleet.run(boot())
    with fleet.process() as process:
        journaled = process.journal.load(str(outcome.operation)).records
    assert shown["steps"] == [
        {"n": r.n, "name": r.name, "kind": r.kind, "host": r.step.host, "summary": r.step.summary()}
        for r in journaled
    ]
    assert (shown["kind"], shown["target"], shown["host"]) == ("boot", "web1", "kvm1")
    assert shown["alternates"] == ["kvm2", "kvm3"]
    assert shown["changes"]["addresses"] == {"lan": "192.0.2.3"}  # .2 is the name server


def test_many_at_once(quick: Path) -> None:
    """Sixteen threads of one process; every host gets its share and nobody meets another."""
    fleet = SimFleet(quick, hosts_=4, vcpus=8, cpu_ratio=1.0, memory_mib=8192)
    with fleet.process() as process:
        outcomes = process.operator.run([boot(f"web{n}") for n in range(1, 25)])
        assert {outcome.result for outcome in outcomes} == {"done"}
        outcomes = process.operator.run([delete(f"web{n}") for n in range(1, 25, 2)])
        assert {outcome.result for outcome in outcomes} == {"done"}
        with fleet.db.reading() as tx:
            assert len({ip for i in instances.everything(tx) for ip in (p.ip for p in i.ports)}) == 12
    assert always(fleet) == []
    assert settled(fleet) == []
    assert fleet.active() == []
    fleet.close()


# --- cancel ---


class Cancels:
    """Failpoints: at one instant another process cancels the operation."""

    def __init__(self, fleet: SimFleet, point: str, n: int) -> None:
        self.fleet = fleet
        self.at = (point, n)
        self.state = ""

    def reach(self, point: str, record: object) -> None:
        if (point, record.n) == self.at:  # type: ignore[attr-defined]
            with self.fleet.process("other") as process:
                self.state = str(recover.cancel(process.operator, self.fleet.active()[0]).state)


def test_a_living_operation_that_is_cancelled_stops_and_undoes(fleet: SimFleet) -> None:
    cancels = Cancels(fleet, "after-intent", 5)
    outcome = fleet.run(boot(), failpoints=cancels)
    assert cancels.state == "running"
    assert (outcome.code, isinstance(outcome.error, Interrupted)) == (130, True)
    assert str(outcome.error) == "boot of web1: boot of web1 was cancelled"
    assert settled(fleet) == []
    assert fleet.hosts["kvm1"].everything() == set()


def test_a_dead_operation_that_is_cancelled_is_undone(fleet: SimFleet) -> None:
    with pytest.raises(Died):
        fleet.run(boot(), failpoints=DieAt("after-act", 5))
    (op_id,) = fleet.active()
    with fleet.process() as process:
        assert recover.cancel(process.operator, op_id).state is OpState.UNDONE
    assert settled(fleet) == []


def test_too_late_to_cancel(fleet: SimFleet) -> None:
    outcome = fleet.run(boot())
    with pytest.raises(Died):
        fleet.run(delete(), failpoints=DieAt("after-record", 1))
    (op_id,) = fleet.active()
    with fleet.process() as process:
        with pytest.raises(Refused, match=r"is past its point of no return$") as caught:
            recover.cancel(process.operator, op_id)
        assert caught.value.code == 5
        with pytest.raises(Refused, match=rf"^{outcome.operation}: is done already$"):
            recover.cancel(process.operator, str(outcome.operation))


# --- several at once ---


class DiesInAll:
    """Failpoints: the process dies when all its children but those spared have come to one instant of one
    step, and those spared have ended."""

    def __init__(self, fleet: SimFleet, point: str, name: str, children: int, spared: int) -> None:
        self.fleet = fleet
        self.at = (point, name)
        self.spared, self.left = spared, spared
        self.lock = threading.Lock()
        self.all_there = threading.Barrier(children - spared, timeout=30)

    def reach(self, point: str, record: object) -> None:
        if (point, record.name) == self.at:  # type: ignore[attr-defined]
            with self.lock:
                self.left -= 1
                dies = self.left < 0
            if dies:
                self.all_there.wait()
                while self.ended() < self.spared:
                    threading.Event().wait(0.01)
                raise Died

    def ended(self) -> int:
        with self.fleet.db.reading() as tx:
            return len(tx.all("SELECT id FROM operations WHERE state = 'done'"))


def left_by_a_dead_parent(fleet: SimFleet) -> str:
    """The parent of six boots, of which two ended well before the process died; its id."""
    dies = DiesInAll(fleet, "after-act", "start-domain", 6, 2)
    with pytest.raises(Died), fleet.process("a", dies) as process:
        process.operator.run([boot(f"web{n}") for n in range(1, 7)])
    with fleet.db.reading() as tx:
        (parent,) = [row["id"] for row in tx.all("SELECT * FROM operations WHERE target = '6 instances'")]
        assert len(instances.everything(tx)) == 6
    assert len(fleet.active()) == 5
    return str(parent)


def names(fleet: SimFleet) -> list[str]:
    with fleet.db.reading() as tx:
        return sorted(found.name for found in instances.everything(tx))


def test_a_parent_is_resumed_by_its_children(fleet: SimFleet) -> None:
    parent = left_by_a_dead_parent(fleet)
    assert fleet.take_over(parent, back=False).state is OpState.DONE
    assert settled(fleet) == []
    assert len(names(fleet)) == 6


def test_a_parent_is_rolled_back_by_its_children(fleet: SimFleet) -> None:
    parent = left_by_a_dead_parent(fleet)
    fleet.take_over(parent, back=True)
    assert settled(fleet) == []
    assert len(names(fleet)) == 2  # what was done stays done


def test_everything_that_was_left_is_resumed(fleet: SimFleet) -> None:
    left_by_a_dead_parent(fleet)
    with pytest.raises(Died):
        fleet.run(boot("other"), failpoints=DieAt("after-intent", 5))
    with fleet.process() as process:
        outcomes = recover.take_over_all(process.operator)
    assert {outcome.code for outcome in outcomes} == {0}
    assert settled(fleet) == []
    assert len(names(fleet)) == 7


def test_a_child_of_a_dead_process_can_be_cancelled_alone(fleet: SimFleet) -> None:
    parent = left_by_a_dead_parent(fleet)
    child = next(op_id for op_id in fleet.active() if op_id != parent)
    with fleet.process() as process:
        assert recover.cancel(process.operator, child).state is OpState.UNDONE
    fleet.take_over(parent, back=False)
    assert settled(fleet) == []
    assert len(names(fleet)) == 5


def test_a_parent_that_is_cancelled_stops_its_children(fleet: SimFleet) -> None:
    class CancelsParent:
        done = False
        lock = threading.Lock()

        def reach(self, point: str, record: object) -> None:
            with self.lock:
                if self.done or (point, record.name) != ("after-record", "make-directory"):  # type: ignore[attr-defined]
                    return
                self.done = True
                with fleet.db.reading() as tx:
                    (row,) = tx.all("SELECT id FROM operations WHERE target = '3 instances'")
                with fleet.process("other") as process:
                    recover.cancel(process.operator, row["id"])

    with fleet.process("a", CancelsParent()) as process:
        outcomes = process.operator.run([boot(f"web{n}") for n in range(1, 4)])
    assert {outcome.code for outcome in outcomes} <= {0, 130}
    assert 130 in {outcome.code for outcome in outcomes}
    assert settled(fleet) == []


@pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
@pytest.mark.parametrize("ended", [True, False], ids=["children-ended", "no-children-yet"])
def test_a_parent_ends_as_its_children_did(fleet: SimFleet, ended: bool, back: bool) -> None:
    """Its process died when they had ended, or before there was one."""
    with fleet.process() as process:
        process.operator.run([boot("web1"), boot("web2")])
    with fleet.db.writing() as tx:
        tx.run("UPDATE operations SET state = 'running', finished_at = NULL WHERE target = '2 instances'")
        if not ended:
            tx.run("UPDATE operations SET parent = NULL")
    (parent,) = fleet.active()
    state = fleet.take_over(parent, back=back).state
    assert state is (OpState.DONE if ended else OpState.UNDONE)
    assert settled(fleet) == []
    assert names(fleet) == ["web1", "web2"]
