"""Many targets: a host that is lost in the middle stops no other, and each target says how it ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.actions.outcome import Outcome
from novactl.db import operations
from novactl.engine.operation import OpState
from tests.sim.actions import boot, stop
from tests.support.sim import Fault, SimFleet, settled


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    """web1 to web9, three on each host."""
    made = SimFleet(quick, hosts_=3, vcpus=32)
    for n in range(9):
        assert made.run(boot(f"web{n + 1}", host=f"kvm{n % 3 + 1}")).code == 0
    yield made
    made.close()


NAMES = [f"web{n}" for n in range(1, 10)]
LOST = ["web2", "web5", "web8"]


def stopped(fleet: SimFleet) -> dict[str, Outcome]:
    with fleet.process() as process:
        found = process.operator.run([stop(name) for name in NAMES])
    assert [one.target for one in found] == NAMES
    return {one.target: one for one in found}


def parent(fleet: SimFleet) -> tuple[OpState, str | None, int]:
    """The state and error of the newest parent, and how many children it has."""
    with fleet.db.reading() as tx:
        op = next(op for op, _, _ in operations.listed(tx) if "targets" in op.request)
        return op.state, op.error, len(operations.states_of_children(tx, op.id))


def test_all_end_alike(fleet: SimFleet) -> None:
    assert {one.result for one in stopped(fleet).values()} == {"done"}
    assert parent(fleet) == (OpState.DONE, None, 9)
    assert {one.result for one in stopped(fleet).values()} == {"unchanged"}
    assert settled(fleet) == []


def test_a_host_that_is_away_from_the_start(fleet: SimFleet) -> None:
    fleet.hosts["kvm2"].up = False
    found = stopped(fleet)
    assert {name: one.code for name, one in found.items()} == {
        name: 7 if name in LOST else 0 for name in NAMES
    }
    assert all(found[name].operation is None for name in LOST)  # nothing was journaled
    assert parent(fleet) == (OpState.DONE, "3 of 9 not done", 6)
    fleet.hosts["kvm2"].up = True
    assert {name: stopped(fleet)[name].code for name in LOST} == dict.fromkeys(LOST, 0)
    assert settled(fleet) == []


def test_a_host_that_is_lost_in_the_middle(fleet: SimFleet) -> None:
    """Its guests may be off or not: left half way, to be resumed; all others are off."""
    fleet.faults.append(Fault("shutdown", "unreachable", host="kvm2", times=1000))
    fleet.faults.append(Fault("settled_state", "unreachable", host="kvm2", times=1000))
    found = stopped(fleet)
    codes = {name: one.code for name, one in found.items()}
    assert codes == {name: 11 if name in LOST else 0 for name in NAMES}
    for name in LOST:
        error = found[name].error
        assert error is not None
        assert (error.operation, found[name].result) == (found[name].operation, "failed")
        assert "op resume" in error.hint
    assert parent(fleet) == (OpState.INCOMPLETE, "3 of 9 not done", 9)
    fleet.faults.clear()
    for name in LOST:
        op = fleet.take_over(str(found[name].operation), back=False)
        assert op.state is OpState.DONE
