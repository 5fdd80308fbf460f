"""A disk that grew on storage that both hosts share stays so when its resize is reverted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.db import hosts, instances
from tests.sim.actions import boot, delete, grow_shared, revert
from tests.support.sim import SimFleet, always, settled


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
