"""A plan of rebalance is carried out; what a killed one has left is finished, and the next does the rest."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import rebalance
from novactl.actions.outcome import Outcome
from novactl.db import instances, operations
from novactl.engine.operation import ACTIVE, Operation, OpState
from novactl.errors import Busy, NovactlError
from tests.sim.actions import boot, lock, migrate, stop
from tests.sim.effort import sample
from tests.support.sim import SimFleet, settled
from tests.support.toys import Died

NAMES = ("web1", "web2", "off3", "off4")
NOW = rebalance.Wanted(cooldown=0)


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    """All are on kvm1: two that run, two that are off."""
    (quick / "fleet").mkdir()
    made = SimFleet(quick / "fleet", vcpus=32)
    for name in NAMES:
        assert made.run(boot(name, host="kvm1")).code == 0
    for name in ("off3", "off4"):
        assert made.run(stop(name, force=True)).code == 0
    made.clock.sleep(60)
    yield made
    made.close()


def plan(process: Any) -> list[dict[str, Any]]:
    view = rebalance.look(process.operator.world, NOW.cooldown)
    found: list[dict[str, Any]] = rebalance.as_dict(rebalance.plan(view, NOW), view)["moves"]
    return found


def rebalanced(fleet: SimFleet, **dies: tuple[str, int]) -> list[Outcome]:
    with fleet.process(**dies) as process:
        return process.operator.run(rebalance.parts(process.operator.world, plan(process)))


def where(fleet: SimFleet) -> dict[str, tuple[str | None, str]]:
    with fleet.db.reading() as tx:
        return {one.name: (one.host, one.status) for one in instances.everything(tx)}


def even(fleet: SimFleet) -> None:
    """No host has more than two, and each is as it was."""
    now = where(fleet)
    assert {name: status for name, (_, status) in now.items()} == {
        "web1": "ACTIVE",
        "web2": "ACTIVE",
        "off3": "SHUTOFF",
        "off4": "SHUTOFF",
    }
    on = [host for host, _ in now.values()]
    assert max(on.count(host) for host in on) == 2 and len(set(on)) == 3


def newest_parent(fleet: SimFleet) -> Operation | None:
    with fleet.db.reading() as tx:
        found = [op for op, _, _ in operations.listed(tx) if op.kind == "rebalance"]
    return found[0] if found else None


def test_carried_out(fleet: SimFleet) -> None:
    outcomes = rebalanced(fleet)
    assert len(outcomes) == 2 and {one.result for one in outcomes} == {"done"}
    even(fleet)
    parent = newest_parent(fleet)
    assert parent is not None and (parent.state, parent.target) == (OpState.DONE, "the fleet")
    fleet.clock.sleep(60)
    with fleet.process() as process:
        assert plan(process) == []
    assert settled(fleet) == []


def test_one_whose_world_has_moved_is_refused(fleet: SimFleet) -> None:
    """One is on another host by then, one is locked: each says so, and nothing of it is begun."""
    with fleet.process() as process:
        found = plan(process)
        first, second = found[0], found[1]
        other = ({"kvm2", "kvm3"} - {first["to"]}).pop()
        parts = rebalance.parts(process.operator.world, found)
        fleet.run(stop(first["instance"], force=True))
        assert fleet.run(migrate(first["instance"], host=other, confirm=True)).code == 0
        fleet.run(lock(second["instance"]))
        errors = [str(one.error) for one in process.operator.run(parts)]
    assert len(errors) == 2 and errors[1].startswith(f"{second['instance']}: is locked")
    assert where(fleet)[first["instance"]][0] == other
    assert where(fleet)[second["instance"]][0] == "kvm1"
    assert settled(fleet) == []


def test_one_that_went_elsewhere_is_not_brought_from_there(fleet: SimFleet) -> None:
    with fleet.process() as process:
        cold = {**plan(process)[0], "instance": "off3", "uuid": uuid_of(fleet, "off3"), "method": "cold"}
        other = ({"kvm2", "kvm3"} - {cold["to"]}).pop()
        parts = rebalance.parts(process.operator.world, [cold])
        assert fleet.run(migrate("off3", host=other, confirm=True)).code == 0
        (outcome,) = process.operator.run(parts)
    assert outcome.error is not None
    assert outcome.error.message == f"off3: is on {other}, not on kvm1 any more"
    assert where(fleet)["off3"] == (other, "SHUTOFF")


def uuid_of(fleet: SimFleet, name: str) -> str:
    with fleet.db.reading() as tx:
        return instances.find(tx, name, "default").uuid


def test_one_excludes_another(fleet: SimFleet) -> None:
    tried: list[str] = []

    class Meanwhile:
        def reach(self, point: str, record: Any) -> None:
            if point == "before-intent" and not tried:
                tried.append("yes")
                with (
                    fleet.process() as process,
                    pytest.raises(Busy, match=r"^rebalance is held by rebalance of"),
                ):
                    process.operator.run(rebalance.parts(process.operator.world, found))

    with fleet.process(failpoints=Meanwhile()) as process:
        found = plan(process)
        outcomes = process.operator.run(rebalance.parts(process.operator.world, found))
    assert [one.result for one in outcomes] == ["done", "done"] and tried == ["yes"]


def test_killed_anywhere_it_is_finished(fleet: SimFleet, quick: Path) -> None:
    """What was begun is gone on with by `op resume`, the rest by rebalancing again."""
    (quick / "count").mkdir()
    with fleet.clone(quick / "count").process() as process:
        process.operator.run(rebalance.parts(process.operator.world, plan(process)))
        writes = process.life.writes
    assert writes > 40
    trials = 0
    for n in sample(range(1, writes + 1), 5):
        for point in ("before-write", "after-write"):
            directory = quick / f"{point}-{n}"
            directory.mkdir()
            one = fleet.clone(directory)
            with pytest.raises(Died):
                rebalanced(one, dies_at=(point, n))
            parent = newest_parent(one)
            if parent is not None and parent.state in ACTIVE:
                with contextlib.suppress(NovactlError):
                    one.take_over(parent.id, back=False)
            assert one.active() == [], (point, n)
            one.clock.sleep(60)
            rebalanced(one)
            even(one)
            assert settled(one) == [], (point, n)
            one.close()
            trials += 1
    assert trials >= 10
