"""A delete that meets another operation: that one ends, whoever has it, and the delete is done."""

import threading
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import recover
from novactl.engine.operation import OpState
from novactl.errors import Busy
from tests.sim.actions import boot, delete, start, stop
from tests.support.sim import Fault, SimFleet, settled
from tests.support.toys import DieAt, Died


@pytest.fixture
def fleet(quick: Path) -> Any:
    fleet = SimFleet(quick)
    yield fleet
    fleet.close()


def nothing_left(fleet: SimFleet) -> None:
    assert settled(fleet) == []
    assert [host.everything() for host in fleet.hosts.values()] == [set()] * len(fleet.hosts)


def states(fleet: SimFleet) -> dict[str, str]:
    with fleet.db.reading() as tx:
        return {
            row["kind"]: row["state"]
            for row in tx.all("SELECT kind, state FROM operations ORDER BY started_at")
        }


class Slow:
    """Failpoints: at one instant the operation waits until somebody wants its end."""

    def __init__(self, fleet: SimFleet, at: tuple[str, str]) -> None:
        self.fleet = fleet
        self.at = at
        self.here = threading.Event()

    def reach(self, point: str, record: Any) -> None:
        if (point, record.name) == self.at:
            self.here.set()
            for _ in range(3000):
                with self.fleet.db.reading() as tx:
                    if tx.one(
                        "SELECT 1 AS yes FROM operations WHERE cancel_requested = 1 AND finished_at IS NULL"
                    ):
                        return
                threading.Event().wait(0.01)
            pytest.fail("nobody asked for its end")


@pytest.mark.parametrize(
    ("verb", "at", "ends"),
    [
        (boot, ("after-act", "make-directory"), "undone"),
        (boot, ("after-record", "start-domain"), "undone"),
        (start, ("after-intent", "redefine-domain"), "undone"),
        (start, ("after-act", "power-on"), "done"),  # past its point of no return: finished, then deleted
    ],
)
def test_a_live_owner_is_asked_and_waited_for(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch, verb: Any, at: tuple[str, str], ends: str
) -> None:
    monkeypatch.setattr(recover, "PATIENCE", 1e9)  # the simulated clock runs while real threads work
    if verb is start:
        assert fleet.run(boot()).code == fleet.run(stop()).code == 0
    slow, codes = Slow(fleet, at), {}
    runner = threading.Thread(target=lambda: codes.update(first=fleet.run(verb(), failpoints=slow).code))
    runner.start()
    assert slow.here.wait(30)
    outcome = fleet.run(delete(), name="b")
    runner.join(30)
    assert (codes, outcome.code, outcome.result) == ({"first": 0 if ends == "done" else 130}, 0, "done")
    assert states(fleet)[verb().kind] == ends
    nothing_left(fleet)


@pytest.mark.parametrize("step", range(3, 10))
def test_a_boot_whose_owner_is_dead_is_undone(fleet: SimFleet, step: int) -> None:
    with pytest.raises(Died):
        fleet.run(boot(), failpoints=DieAt("after-intent", step))
    assert fleet.run(delete(), name="b").code == 0
    assert states(fleet) == {"boot": "undone"}
    nothing_left(fleet)


def test_a_delete_whose_owner_is_dead_is_finished(fleet: SimFleet) -> None:
    fleet.run(boot())
    with pytest.raises(Died):
        fleet.run(delete(), failpoints=DieAt("after-intent", 2))
    outcome = fleet.run(delete(), name="b")
    assert (outcome.code, outcome.result) == (0, "done")
    assert outcome.operation is not None
    assert states(fleet)["delete"] == "done"
    nothing_left(fleet)


def test_one_that_can_neither_be_finished_nor_undone_is_cleaned_up_after(fleet: SimFleet) -> None:
    fleet.faults += [Fault("start", "fails", "kvm1"), Fault("undefine_if_made_by", "fails", "kvm1", times=99)]
    assert fleet.run(boot()).code == 11
    outcome = fleet.run(delete(), name="b")
    assert (outcome.code, outcome.result) == (0, "done")
    assert states(fleet) == {"boot": "abandoned", "delete": "done"}
    nothing_left(fleet)


def test_a_delete_that_is_under_way_is_left_alone(fleet: SimFleet) -> None:
    fleet.run(boot())
    met = []

    class Meanwhile:
        def reach(self, point: str, record: Any) -> None:
            if (point, record.name) == ("after-act", "remove-domain"):
                met.append(fleet.run(delete(), name="b"))

    assert fleet.run(delete(), failpoints=Meanwhile()).code == 0
    assert [(outcome.code, isinstance(outcome.error, Busy)) for outcome in met] == [(6, True)]
    nothing_left(fleet)


def test_what_holds_something_else_is_no_business_of_a_delete(fleet: SimFleet) -> None:
    from novactl.engine.operation import Lock, Mode, Plan

    fleet.run(boot())
    with fleet.process("c") as process:
        plan = Plan(
            kind="drain",
            target="kvm1",
            target_uuid=None,
            project="",
            request={},
            locks=frozenset({Lock("host", "kvm1", Mode.EXCLUSIVE)}),
        )
        op = fleet.db.write(lambda tx: process.journal.insert(tx, "op-drain", plan))
        outcome = fleet.run(delete(), name="b")
        assert outcome.code == 6
        assert not process.journal.refresh_cancel(op)
        process.journal.turn(op, OpState.DONE)
    assert fleet.run(delete(), name="b").code == 0
