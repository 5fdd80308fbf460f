"""Instances that are to be apart, or together, when one of them moves or is gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import drain, rebalance
from novactl.db import groups, instances, pruning, settings
from novactl.db.session import meta, set_meta
from novactl.objects.group import GroupPolicy, ServerGroup
from tests.sim.actions import boot, delete, evacuate, lock, lose_host, migrate, resize, revert
from tests.support.sim import SimFleet, settled

LATER = "2099-01-01T00:00:00.000000Z"


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    (quick / "fleet").mkdir()
    made = SimFleet(quick / "fleet", hosts_=3, vcpus=32)
    yield made
    made.close()


def where(fleet: SimFleet) -> dict[str, str | None]:
    with fleet.db.reading() as tx:
        return {one.name: one.host for one in instances.everything(tx)}


def pruned(fleet: SimFleet) -> None:
    """Of what was deleted nothing is left."""
    with fleet.db.writing() as tx:
        set_meta(tx, pruning.FLOOR, str(meta(tx, "serial")))
        pruning.operations(tx, LATER, "", 1000)
        assert pruning.instances(tx, LATER, "", 1000)[0] == 1


@pytest.mark.parametrize("wish", ["apart_from", "together_with"])
def test_one_that_named_a_pruned_one_moves(fleet: SimFleet, wish: str) -> None:
    assert fleet.run(boot("gone", host="kvm1")).code == 0
    assert fleet.run(boot("stays", **{wish: ("gone",)})).code == 0
    assert fleet.run(delete("gone")).code == 0
    pruned(fleet)
    (host,) = where(fleet).values()
    with fleet.process() as process:
        (leaving,) = drain.look(process.operator.world, str(host), "auto")
    assert leaving.blocker is None
    assert fleet.run(migrate("stays", confirm=True)).error is None
    assert where(fleet)["stays"] != host and settled(fleet) == []


@pytest.mark.parametrize("first", ["named", "names"])
def test_those_who_are_together_leave_a_dead_host(fleet: SimFleet, first: str) -> None:
    """Whoever comes first goes where it can, the other one after it."""
    assert fleet.run(boot("named", host="kvm1")).code == 0
    assert fleet.run(boot("names", together_with=("named",))).code == 0
    lose_host(fleet)
    for name in sorted(("named", "names"), key=lambda name: name != first):
        assert fleet.run(evacuate(name)).error is None
    now = where(fleet)
    assert now["named"] == now["names"] != "kvm1"


def test_who_may_come_back_finds_nobody_to_be_apart_from(fleet: SimFleet) -> None:
    """Neither one that names it, nor one that it names, nor comes one of them by a move."""
    assert fleet.run(boot("other", host="kvm3")).code == 0
    assert fleet.run(boot("mover", host="kvm1", apart_from=("other",))).code == 0
    assert fleet.run(migrate("mover")).code == 0
    assert where(fleet)["mover"] == "kvm2"
    assert fleet.run(boot("new", apart_from=("mover",))).error is None
    assert where(fleet)["new"] == "kvm3"
    for name in ("new", "other"):
        refusal = str(fleet.run(migrate(name)).error)
        assert "kvm1: has mover, to be apart from" in refusal and "kvm2: has mover" in refusal
    assert fleet.run(revert("mover")).code == 0
    assert fleet.run(migrate("other", confirm=True)).code == 0
    assert where(fleet) == {"mover": "kvm1", "new": "kvm3", "other": "kvm2"} and settled(fleet) == []


@pytest.mark.parametrize("tie", ["group", "apart"])
def test_nobody_is_planned_to_where_one_to_be_apart_from_may_come_back(fleet: SimFleet, tie: str) -> None:
    """kvm1 is the emptiest host, but mover may go back there."""
    wishes: dict[str, Any] = {"apart_from": ("mover",)}
    if tie == "group":
        wishes = {"group": "apart"}
        with fleet.db.writing() as tx:
            group = ServerGroup(id="g", name="apart", project="default", policy=GroupPolicy.ANTI_AFFINITY)
            groups.create(tx, group)
    assert fleet.run(boot("mover", host="kvm1", **(wishes if tie == "group" else {}))).code == 0
    assert fleet.run(boot("near", host="kvm3", **wishes)).code == 0
    for n in range(4):
        assert fleet.run(boot(f"stays{n}", host="kvm3")).code == 0
        assert fleet.run(lock(f"stays{n}")).code == 0
    assert fleet.run(migrate("mover", host="kvm2")).code == 0
    with fleet.process() as process:
        view = rebalance.look(process.operator.world, 0)
        assert rebalance.plan(view, rebalance.Wanted(min_gain=0.0)).moves == ()
    assert fleet.run(revert("mover")).code == 0
    with fleet.process() as process:
        view = rebalance.look(process.operator.world, 0)
        (move,) = rebalance.plan(view, rebalance.Wanted(min_gain=0.0)).moves
    assert (move.guest.name, move.target) == ("near", "kvm2") and settled(fleet) == []


def test_who_may_come_back_finds_its_place_free(fleet: SimFleet) -> None:
    """No host has more than one; it is counted where it may go back to, and where it has come."""
    for name, host in (("mover", "kvm1"), ("other", "kvm3")):
        assert fleet.run(boot(name, host=host)).code == 0
    with fleet.db.writing() as tx:
        settings.put(tx, "scheduler", {"max_instances_per_host": 1})
    assert fleet.run(migrate("mover")).code == 0
    for action in (boot("new"), migrate("other")):
        assert "kvm1: has 1 instances, 1 allowed" in str(fleet.run(action).error)
    with fleet.process() as process:
        most = {node.name: node.most for node in rebalance.look(process.operator.world).nodes}
    assert most == {"kvm1": 0, "kvm2": 1, "kvm3": 1}
    assert fleet.run(revert("mover")).code == 0
    assert fleet.run(migrate("other", confirm=True)).code == 0
    assert where(fleet) == {"mover": "kvm1", "other": "kvm2"} and settled(fleet) == []


def test_one_that_is_resized_where_it_is_is_not_one_more_there(fleet: SimFleet) -> None:
    """Its host has more than it may have since the bound was lowered; elsewhere it would be one more."""
    for name in ("grows", "other"):
        assert fleet.run(boot(name, host="kvm1")).code == 0
    for host in ("kvm2", "kvm3"):
        assert fleet.run(boot(f"on-{host}", host=host)).code == 0
    with fleet.db.writing() as tx:
        settings.put(tx, "scheduler", {"max_instances_per_host": 1})
    assert fleet.run(resize("large", "grows", confirm=True)).error is None
    assert where(fleet)["grows"] == "kvm1" and settled(fleet) == []
    assert "kvm2: has 1 instances, 1 allowed" in str(fleet.run(resize("large", "other", host="kvm2")).error)
