"""What a guest's firmware remembers is on no shared storage: it goes with a move that copies nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.db import instances
from tests.sim.actions import boot, confirm, migrate, revert, share
from tests.support.sim import Fault, SimFleet, settled

BORN = b"born on kvm1"


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    fleet = SimFleet(quick)
    assert fleet.run(boot(host="kvm1", image="uefi")).code == 0
    share(fleet)
    yield fleet
    fleet.close()


def remembered(fleet: SimFleet) -> tuple[bytes | None, bytes | None]:
    """By kvm1 and by kvm2; no copy is left with its files."""
    (instance,) = fleet.db.read(instances.everything)
    found = [fleet.hosts[name] for name in ("kvm1", "kvm2")]
    assert all("nvram" not in host.directories[instance.uuid].files for host in found)
    assert settled(fleet) == []
    first, second = (host.nvram.get(instance.uuid) for host in found)
    return first, second


def test_it_is_there_on_the_other_host(fleet: SimFleet) -> None:
    assert remembered(fleet) == (BORN, None)
    assert fleet.run(migrate(host="kvm2")).code == 0
    assert remembered(fleet) == (BORN, BORN)
    assert fleet.run(confirm()).code == 0
    assert remembered(fleet) == (None, BORN)


def test_a_revert_has_its_own(fleet: SimFleet) -> None:
    assert fleet.run(migrate(host="kvm2")).code == 0
    assert fleet.run(revert()).code == 0
    assert remembered(fleet) == (BORN, None)


@pytest.mark.parametrize("call", ["place_nvram", "start"])
def test_a_move_that_fails_leaves_nothing(fleet: SimFleet, call: str) -> None:
    fleet.faults.append(Fault(call, "fails", host="kvm2", times=99))
    assert fleet.run(migrate(host="kvm2")).code == 1
    assert remembered(fleet) == (BORN, None)
