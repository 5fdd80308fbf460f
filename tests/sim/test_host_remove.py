"""A host that something still needs is not removed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import hosts as enrolment
from novactl.db import hosts
from novactl.errors import Refused
from tests.sim.actions import boot, confirm, migrate, revert
from tests.support.sim import SimFleet, always


class Reached:
    """Every host answers."""

    def enlist(self, *_: Any) -> None: ...
    def delist(self, *_: Any) -> None: ...
    def set_identity(self, *_: Any) -> None: ...
    def leave(self) -> None: ...
    def hypervisor_of(self, host: Any) -> "Reached":
        return self


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    made = SimFleet(quick)
    yield made
    assert always(made) == []
    made.close()


def remove(fleet: SimFleet, name: str) -> None:
    reach: Any = Reached()
    with fleet.process() as process:
        enrolment.remove(process.operator.world, reach, name)


def known(fleet: SimFleet) -> list[str]:
    with fleet.db.reading() as tx:
        return [one.name for one in hosts.everything(tx) if one.enabled]


@pytest.mark.parametrize("ends", [confirm, revert])
def test_one_that_a_waiting_move_may_go_back_to(fleet: SimFleet, ends: Any) -> None:
    assert fleet.run(boot(host="kvm1")).code == 0
    assert fleet.run(migrate()).code == 0
    with pytest.raises(Refused, match="host kvm1: web1 still has a share of it") as caught:
        remove(fleet, "kvm1")
    assert "novactl resize-confirm web1 or novactl resize-revert web1" in str(caught.value.hint)
    assert "kvm1" in known(fleet)
    assert fleet.run(ends()).code == 0
    left = "kvm1" if ends is confirm else "kvm2"
    remove(fleet, left)
    assert left not in known(fleet)
