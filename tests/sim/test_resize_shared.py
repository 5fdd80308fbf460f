"""A disk that grew on storage that both hosts share stays so when its resize is reverted, or undone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.db import hosts, instances, projects
from tests.sim.actions import boot, delete, grow_shared, resize, revert, share
from tests.support.sim import Fault, SimFleet, always, settled


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    fleet = SimFleet(quick, disk_gib=24, reserved_disk_gib=0)
    assert fleet.run(boot(host="kvm1")).code == 0
    grow_shared(fleet)
    yield fleet
    fleet.close()


def test_its_host_keeps_room_for_it(fleet: SimFleet) -> None:
    assert fleet.run(revert()).code == 0
    (instance,) = fleet.db.read(instances.everything)
    (hold,) = fleet.db.read(lambda tx: hosts.holds_of(tx, instance.uuid))
    assert (hold["host"], instance.host) == ("kvm1", "kvm1")
    assert hold["disk_gib"] == instance.resources.disk_gib == 20
    assert settled(fleet) == []


def test_no_room_for_it(fleet: SimFleet) -> None:
    """It is refused, until there is."""
    assert fleet.run(boot("web2", host="kvm1", flavor="large")).code == 0
    outcome = fleet.run(revert())
    assert (outcome.code, outcome.operation) == (5, None)
    assert outcome.error is not None and "kvm1 has no room for its disk" in outcome.error.message
    assert always(fleet) == [] and settled(fleet) == []
    assert fleet.run(delete("web2")).code == 0
    assert fleet.run(revert()).code == 0
    assert settled(fleet) == []


@pytest.mark.parametrize("room", [24, 2], ids=["room", "none"])
def test_a_resize_that_is_undone(quick: Path, room: int) -> None:
    """Its guest does not start on the other host: the file is large by then, and stays on the first one, with
    or without room for it."""
    fleet = SimFleet(quick, disk_gib=24, reserved_disk_gib=0)
    fleet.limit()
    assert fleet.run(boot(host="kvm1")).code == 0
    share(fleet)
    before = _used(fleet)
    with fleet.db.writing() as tx:
        tx.run("UPDATE hosts SET disk_gib = :room WHERE name = 'kvm1'", room=room)
    fleet.faults.append(Fault("start", "fails", host="kvm2", times=99))
    assert fleet.run(resize(host="kvm2")).code == 1
    (instance,) = fleet.db.read(instances.everything)
    (hold,) = fleet.db.read(lambda tx: hosts.holds_of(tx, instance.uuid))
    files = fleet.hosts["kvm1"].directories[instance.uuid].files
    assert (hold["host"], instance.host, instance.root_gib) == ("kvm1", "kvm1", 20)
    assert hold["disk_gib"] == instance.resources.disk_gib == files["disk"][1] >> 30 == 20
    assert (instance.flavor.vcpus, instance.flavor.memory_mib) == (1, 512)
    assert _used(fleet) == before and fleet.db.read(lambda tx: instances.copy_is_behind(tx, instance.uuid))
    assert settled(fleet) == ([] if room > 20 else ["kvm1: is overcommitted"])
    fleet.close()


def test_a_resize_that_is_undone_before_its_disk_grows(quick: Path) -> None:
    fleet = SimFleet(quick)
    assert fleet.run(boot(host="kvm1")).code == 0
    share(fleet)
    fleet.faults.append(Fault("leave_domain", "fails", times=99))
    assert fleet.run(resize(host="kvm2")).code == 1
    (instance,) = fleet.db.read(instances.everything)
    assert instance.root_gib == instance.flavor.disk_gib == 1
    assert settled(fleet) == []
    fleet.close()


def _used(fleet: SimFleet) -> tuple[int, int]:
    """Of the project's quota."""
    project = fleet.db.read(lambda tx: projects.find(tx, "default"))
    return project.cores_used, project.memory_mib_used
