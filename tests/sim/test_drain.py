"""A host is emptied: all leave or nothing is begun; what a killed drain has left is finished by another."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import drain
from novactl.actions.outcome import Outcome
from novactl.db import hosts, instances, operations, settings
from novactl.engine.operation import ACTIVE, Operation, OpState
from novactl.errors import Busy, NovactlError, NoValidHost
from tests.sim.actions import boot, lock, migrate, pause, stop
from tests.sim.effort import sample
from tests.support.sim import SimFleet, settled
from tests.support.toys import Died

HOST = "kvm1"


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    """On kvm1 one that runs, one that is paused, one that is off; another on kvm2."""
    (quick / "fleet").mkdir()
    made = SimFleet(quick / "fleet", vcpus=32)
    for name, host in (("runs", HOST), ("paused", HOST), ("off", HOST), ("other", "kvm2")):
        assert made.run(boot(name, host=host)).code == 0
    assert made.run(pause("paused")).code == 0
    assert made.run(stop("off", force=True)).code == 0
    yield made
    made.close()


def drained(fleet: SimFleet, **dies: tuple[str, int]) -> list[Outcome]:
    """As `host drain` does it, one after the other."""
    with fleet.process(**dies) as process:
        found = drain.look(process.operator.world, HOST, "auto")
        parts = drain.leave(HOST, found, 1)
        drain.close(process.operator.world, HOST)
        return process.operator.run(parts)


def where(fleet: SimFleet) -> dict[str, tuple[str | None, str]]:
    with fleet.db.reading() as tx:
        return {one.name: (one.host, one.status) for one in instances.everything(tx)}


def newest_parent(fleet: SimFleet) -> Operation | None:
    with fleet.db.reading() as tx:
        found = [op for op, _, _ in operations.listed(tx) if op.kind == "drain"]
    return found[0] if found else None


def emptied(fleet: SimFleet) -> bool:
    """All have left as they were, and the host takes nothing new."""
    now = where(fleet)
    states = {name: status for name, (_, status) in now.items()}
    assert states == {"runs": "ACTIVE", "paused": "PAUSED", "off": "SHUTOFF", "other": "ACTIVE"}
    with fleet.db.reading() as tx:
        assert hosts.get(tx, HOST).disabled_reason == drain.REASON
    return all(host != HOST for host, _ in now.values())


def test_drained_and_brought_back(fleet: SimFleet) -> None:
    assert [one.result for one in drained(fleet)] == ["done"] * 3
    assert emptied(fleet)
    parent = newest_parent(fleet)
    assert parent is not None and (parent.state, parent.target) == (OpState.DONE, HOST)
    assert fleet.hosts[HOST].domains == {} and fleet.hosts[HOST].directories == {}
    with fleet.process() as process:
        world = process.operator.world
        assert drain.reopen(world, HOST)
        back = drain.come_back(world, HOST, 1)
        assert {one.name for one, _ in back} == {"runs", "paused", "off"}
        assert [one.result for one in process.operator.run([part for _, part in back])] == ["done"] * 3
        assert drain.come_back(world, HOST, 1) == []
    assert {name for name, (host, _) in where(fleet).items() if host == HOST} == {"runs", "paused", "off"}
    assert settled(fleet) == []


def test_who_was_moved_on_does_not_come_back(fleet: SimFleet) -> None:
    drained(fleet)
    host, _ = where(fleet)["off"]
    other = "kvm3" if host == "kvm2" else "kvm2"
    assert fleet.run(migrate("off", host=other, confirm=True)).code == 0
    with fleet.process() as process:
        back = drain.come_back(process.operator.world, HOST, 1)
    assert {one.name for one, _ in back} == {"runs", "paused"}


def test_who_was_moved_away_before_its_turn_stays_there(fleet: SimFleet) -> None:
    """That it has left is what was wanted."""
    with fleet.process() as process:
        world = process.operator.world
        parts = drain.leave(HOST, drain.look(world, HOST, "auto"), 1)
        drain.close(world, HOST)
        assert fleet.run(migrate("off", host="kvm3", confirm=True), name="b").code == 0
        known = {one.name: one.uuid for one in fleet.db.read(instances.everything)}
        outcomes = {one.target: one.result for one in process.operator.run(parts)}
    assert outcomes == {known["runs"]: "done", known["paused"]: "done", known["off"]: "unchanged"}
    assert where(fleet)["off"] == ("kvm3", "SHUTOFF") and emptied(fleet)
    assert settled(fleet) == []


def test_who_is_moved_on_while_others_come_back_stays_there(fleet: SimFleet) -> None:
    drained(fleet)
    host, _ = where(fleet)["off"]
    other = "kvm3" if host == "kvm2" else "kvm2"
    with fleet.process() as process:
        world = process.operator.world
        assert drain.reopen(world, HOST)
        back = drain.come_back(world, HOST, 1)
        assert fleet.run(migrate("off", host=other, confirm=True), name="b").code == 0
        outcomes = process.operator.run([part for _, part in back])
        results = {one.name: outcome.result for (one, _), outcome in zip(back, outcomes, strict=True)}
    assert results == {"runs": "done", "paused": "done", "off": "unchanged"}
    assert where(fleet)["off"] == (other, "SHUTOFF")
    assert settled(fleet) == []


def test_who_cannot_leave_is_named(fleet: SimFleet) -> None:
    assert fleet.run(lock("runs")).code == 0
    with fleet.process() as process:
        world = process.operator.world
        found = drain.look(world, HOST, "auto")
        shown = drain.plan(found)
        assert (shown["before"], shown["after"]) == ({"instances": 3}, {"instances": 1})
        process.operator.run(drain.leave(HOST, found, 1))
        assert drain.staying(world, HOST, found) == ["runs is locked"]
        live = drain.look(world, "kvm2", "live")
        assert {one.instance.name: one.blocker for one in live}["off"] == "is SHUTOFF: cannot be moved live"


def test_without_room_for_all_nothing_is_begun(fleet: SimFleet) -> None:
    """Each alone would fit."""
    with fleet.db.writing() as tx:
        hosts.update(tx, "kvm3", enabled=0)
        hosts.update(tx, "kvm2", reserved_memory_mib=4096 - 3 * 512)
    with fleet.process() as process, pytest.raises(NoValidHost, match="kvm1: cannot be drained"):
        drain.leave(HOST, drain.look(process.operator.world, HOST, "auto"), 1)
    with fleet.db.writing() as tx:
        hosts.update(tx, "kvm2", reserved_memory_mib=0)
    assert [one.result for one in drained(fleet)] == ["done"] * 3


def test_more_leave_than_may_be_worked_on_at_once(fleet: SimFleet) -> None:
    """One at a time they keep to max_io_ops_per_host, however many leave."""
    with fleet.db.writing() as tx:
        settings.put(tx, "scheduler", {"max_io_ops_per_host": 1})
    assert [one.result for one in drained(fleet)] == ["done"] * 3
    assert emptied(fleet)


def test_a_drain_excludes_another(fleet: SimFleet) -> None:
    tried: list[str] = []

    class Meanwhile:
        def reach(self, point: str, record: Any) -> None:
            if point == "before-intent" and not tried:
                tried.append("yes")
                with pytest.raises(Busy, match=f"^drain is held by drain of {HOST}"):
                    drained(fleet)

    with fleet.process(failpoints=Meanwhile()) as process:
        parts = drain.leave(HOST, drain.look(process.operator.world, HOST, "auto"), 1)
        assert [one.result for one in process.operator.run(parts)] == ["done"] * 3
    assert tried == ["yes"]


def test_killed_anywhere_it_is_finished(fleet: SimFleet, quick: Path) -> None:
    """What was begun is gone on with by `op resume`, the rest by draining again."""
    (quick / "count").mkdir()
    with fleet.clone(quick / "count").process() as process:
        world = process.operator.world
        parts = drain.leave(HOST, drain.look(world, HOST, "auto"), 1)
        drain.close(world, HOST)
        process.operator.run(parts)
        writes = process.life.writes
    assert writes > 60
    trials = 0
    for n in sample(range(1, writes + 1), 5):
        for point in ("before-write", "after-write"):
            directory = quick / f"{point}-{n}"
            directory.mkdir()
            one = fleet.clone(directory)
            with pytest.raises(Died):
                drained(one, dies_at=(point, n))
            parent = newest_parent(one)
            if parent is not None and parent.state in ACTIVE:
                with contextlib.suppress(NovactlError):
                    one.take_over(parent.id, back=False)
            assert one.active() == [], (point, n)
            drained(one)
            assert emptied(one), (point, n)
            assert settled(one) == [], (point, n)
            one.close()
            trials += 1
    assert trials >= 20
