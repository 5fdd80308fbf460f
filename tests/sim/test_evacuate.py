"""Evacuations that are refused, and what audit makes of a host that is on again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.db import hosts
from novactl.objects.states import PowerState
from tests.sim.actions import boot, evacuate, heal, lose_host, lose_sharing_host
from tests.support.sim import SimFleet, audited, settled


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    made = SimFleet(quick)
    made.limit()
    assert made.run(boot()).code == 0
    yield made
    made.close()


def state(fleet: SimFleet) -> str:
    with fleet.db.reading() as tx:
        return hosts.get(tx, "kvm1").state


def test_nothing_is_proven(fleet: SimFleet) -> None:
    outcome = fleet.run(evacuate())
    assert outcome.code == 5 and outcome.error is not None
    assert "nothing proves that kvm1 is down" in outcome.error.message
    assert settled(fleet) == []


def test_a_held_disk_is_a_veto(fleet: SimFleet) -> None:
    lose_sharing_host(fleet)
    (directory,) = fleet.hosts["kvm1"].directories.values()
    directory.files["held"] = b"yes"
    outcome = fleet.run(evacuate())
    assert outcome.code == 5 and outcome.error is not None
    assert "disk is held open: its guest runs somewhere" in outcome.error.message
    del directory.files["held"]
    assert settled(fleet) == []
    assert fleet.run(evacuate()).code == 0


def test_a_host_that_returns_is_cleaned_and_then_given_instances(fleet: SimFleet) -> None:
    lose_host(fleet)
    assert fleet.run(evacuate()).code == 0
    fleet.hosts["kvm1"].up = True
    assert state(fleet) == "fenced"
    assert any("stale-copy" in line for line in audited(fleet))
    assert fleet.run(heal()).result == "done"
    assert fleet.hosts["kvm1"].everything() == set()
    assert state(fleet) == "fenced"
    assert fleet.run(heal()).result == "done"
    assert state(fleet) == "up"
    assert settled(fleet) == []


def test_a_guest_that_still_runs_there_keeps_it_fenced(fleet: SimFleet) -> None:
    lose_host(fleet)
    assert fleet.run(evacuate()).code == 0
    first = fleet.hosts["kvm1"]
    first.up = True
    (domain,) = first.domains.values()
    domain.state = PowerState.RUNNING
    assert any("runs-twice" in line for line in audited(fleet))
    assert fleet.run(heal()).result == "unchanged"
    assert (state(fleet), domain.state) == ("fenced", PowerState.RUNNING)


def test_a_returned_host_that_shares_its_storage_loses_its_domain_and_no_file(fleet: SimFleet) -> None:
    lose_sharing_host(fleet)
    assert fleet.run(evacuate()).code == 0
    first = fleet.hosts["kvm1"]
    first.up = True
    kept = {uuid: set(directory.files) for uuid, directory in first.directories.items()}
    while fleet.run(heal()).result == "done":
        pass
    assert first.domains == {} and state(fleet) == "up"
    assert {uuid: set(directory.files) for uuid, directory in first.directories.items()} == kept
    assert settled(fleet) == []
