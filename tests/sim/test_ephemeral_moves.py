"""A disk.local that goes to another host stands on the same bytes there, or does not go."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions.outcome import Outcome
from novactl.db import instances
from tests.sim.actions import boot, live_migrate, migrate, share, stop
from tests.support.sim import SimFleet, always, settled

EPHEMERAL = "ephemeral_1_ext4_v2"
MOVES = pytest.mark.parametrize("move", [migrate, live_migrate], ids=["cold", "live"])
Move = Callable[..., Any]


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    fleet = SimFleet(quick)
    assert fleet.run(boot(host="kvm1", flavor="disks")).code == 0
    yield fleet
    fleet.close()


def other_programs(fleet: SimFleet) -> None:
    fleet.hosts["kvm2"].makes_blanks = "mke2fs 1.99"


@MOVES
def test_bases_that_differ(fleet: SimFleet, move: Move) -> None:
    """It is told before anything is done."""
    other_programs(fleet)
    fleet.hosts["kvm2"].bases[EPHEMERAL] = 1 << 30
    outcome = fleet.run(move(host="kvm2"))
    assert (outcome.code, outcome.operation) == (5, None)
    assert outcome.error is not None
    assert f"its base file {EPHEMERAL} is not that of kvm1" in outcome.error.message
    assert says_what_to_do(outcome)
    assert always(fleet) == [] and settled(fleet) == []


@MOVES
def test_bases_that_will_differ(fleet: SimFleet, move: Move) -> None:
    """The other host makes its own first. The guest is not touched."""
    other_programs(fleet)
    outcome = fleet.run(move(host="kvm2"))
    assert outcome.code != 0 and outcome.error is not None
    assert f"its base file {EPHEMERAL} is not that of kvm1" in outcome.error.message
    assert not {"shutdown", "set_aside", "leave_domain"} & set(fleet.hosts["kvm1"].calls)
    assert always(fleet) == [] and settled(fleet) == []


@MOVES
def test_a_base_of_before(fleet: SimFleet, move: Move) -> None:
    old_base(fleet)
    outcome = fleet.run(move(host="kvm2"))
    assert (outcome.code, outcome.operation) == (5, None)
    assert outcome.error is not None and "stands on ../_base/ephemeral_1_ext4, " in outcome.error.message
    assert says_what_to_do(outcome)


def test_shared_storage_has_one_base(fleet: SimFleet) -> None:
    old_base(fleet)
    share(fleet)
    assert fleet.run(stop()).code == 0
    assert fleet.run(migrate(host="kvm2")).code == 0


def says_what_to_do(outcome: Outcome) -> bool:
    assert outcome.error is not None
    return "novactl shelve web1, and unshelve it there" in f"{outcome.error.message} {outcome.error.hint}"


def old_base(fleet: SimFleet) -> None:
    """The instance was made when each host made its empty disks another way."""
    (instance,) = fleet.db.read(instances.everything)
    host = fleet.hosts["kvm1"]
    files = host.directories[instance.uuid].files
    files["disk.local"] = ("ephemeral_1_ext4", 1 << 30)
    host.bases["ephemeral_1_ext4"] = 1 << 30
