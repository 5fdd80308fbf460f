"""recover --keep: a guest that runs on two hosts runs on one again, the one that a person says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.actions import diagnosis, keep
from novactl.actions.diagnosis import Course, Diagnosis
from novactl.errors import HostUnreachable, NovactlError, OperationIncomplete, Refused
from novactl.objects.states import PowerState
from tests.sim.actions import boot, double, live_migrate, migrate, stop
from tests.sim.test_diagnosis import left, recovered, seen
from tests.support.sim import SimFleet, settled


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    (quick / "fleet").mkdir()
    made = SimFleet(quick / "fleet", vcpus=32)
    assert made.run(boot(host="kvm1")).code == 0
    yield made
    made.close()


def kept(fleet: SimFleet, host: str) -> None:
    """As the command does it."""
    with fleet.process("k") as process:
        operator = process.operator
        found = diagnosis.diagnose(operator, *diagnosis.subject(operator, "web1", "default"))
        stops = keep.others(found, host)
        chosen = keep.course(found, host, stops)
        plan = keep.plan(operator, chosen, host, stops)
        assert (plan["keeps"], plan["stops"]) == (host, stops) and plan["steps"]
        keep.follow(operator, chosen, host, stops)


def runs(fleet: SimFleet) -> list[str]:
    return [name for name, host in fleet.hosts.items() if host.running()]


def frozen(fleet: SimFleet) -> str:
    """A live migration that has left it running on both: nothing is touched, and its code is 11."""
    op_id = left(fleet, live_migrate(host="kvm2"), "after-intent", 11)
    (uuid,) = fleet.hosts["kvm1"].domains
    job = next(iter(fleet.hosts["kvm1"].jobs.values()), None)
    assert job is None
    xml = fleet.hosts["kvm1"].directories[uuid].files["migrate-persistent.xml"].decode()
    there = type(fleet.hosts["kvm1"].domains[uuid])(xml, op_id, PowerState.RUNNING)
    fleet.hosts["kvm2"].domains[uuid] = there
    assert runs(fleet) == ["kvm1", "kvm2"]
    with pytest.raises(OperationIncomplete):
        recovered(fleet)
    assert fleet.active() == [op_id] and runs(fleet) == ["kvm1", "kvm2"]
    return op_id


@pytest.mark.parametrize("host", ["kvm1", "kvm2"])
def test_a_migration_that_left_both(fleet: SimFleet, host: str) -> None:
    frozen(fleet)
    found = seen(fleet)
    assert found.runs == ("kvm1", "kvm2")
    chosen = keep.course(found, host, keep.others(found, host))
    assert chosen.course is (Course.UNDO if host == "kvm1" else Course.FINISH)
    kept(fleet, host)
    assert runs(fleet) == [host] and fleet.active() == [] and settled(fleet) == []
    assert recovered(fleet).well


@pytest.mark.parametrize("host", ["kvm1", "kvm2"])
def test_without_an_operation(fleet: SimFleet, host: str) -> None:
    """A domain that was started by hand, or a host that came back."""
    double(fleet)
    found = recovered(fleet)
    assert (found.course, found.well) == (Course.NOTHING, False)
    assert {one.finding for one in found.findings} == {"runs-twice"}
    kept(fleet, host)
    assert runs(fleet) == [host] and settled(fleet) == []
    assert recovered(fleet).well
    with pytest.raises(Refused, match="does not run on kvm3: it runs on"):
        kept(fleet, "kvm3")


def test_it_went_off_where_it_is_to_be_kept(fleet: SimFleet) -> None:
    """Seen by the step, after the look: the other one is left alone."""
    double(fleet)
    with fleet.process("k") as process:
        found = diagnosis.diagnose(process.operator, *diagnosis.subject(process.operator, "web1", "default"))
        one = keep.keeper(found, "kvm2", "kvm1")
        facts = one.check(process.world)
        fleet.hosts["kvm2"].domains[facts[0].uuid].state = PowerState.SHUTDOWN
        one_that_looked = type("Looked", (), {**vars(type(one)), "check": lambda self, world: facts})
        (outcome,) = process.operator.run([one_that_looked(**vars(one))])
    assert outcome.code == 1 and "its guest is shutdown by now" in str(outcome.error)
    assert runs(fleet) == ["kvm1"]


def refused(found: Diagnosis, host: str) -> NovactlError:
    with pytest.raises(NovactlError) as caught:
        keep.course(found, host, keep.others(found, host))
    return caught.value


def test_it_is_refused(fleet: SimFleet) -> None:
    found = seen(fleet)
    assert keep.others(found, "kvm1") == []
    assert "does not run on kvm2: it runs on kvm1" in refused(found, "kvm2").message
    op_id = left(fleet, migrate(host="kvm2"), "after-record", 3)
    double(fleet)
    error = refused(seen(fleet), "kvm1")
    assert (error.code, f"{op_id}: has not brought it to kvm1 and kvm2") == (
        5,
        error.message.partition(": it")[0],
    )
    recovered(fleet, op_id)


def test_a_stopped_one_runs_nowhere(fleet: SimFleet) -> None:
    assert fleet.run(stop()).code == 0
    assert "it runs nowhere" in refused(seen(fleet), "kvm1").message


def test_while_a_host_is_not_seen(fleet: SimFleet) -> None:
    """It may run there, too."""
    frozen(fleet)
    fleet.hosts["kvm1"].up = False
    error = refused(seen(fleet), "kvm2")
    assert isinstance(error, HostUnreachable) and error.code == 7
    assert runs(fleet) == ["kvm1", "kvm2"]
