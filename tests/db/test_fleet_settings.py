"""Settings and aggregates: kept on every database, and each change of them reaches the second copy."""

from dataclasses import replace
from typing import Any

import pytest

from novactl.actions.inventory import ORDER
from novactl.actions.inventory_export import export
from novactl.actions.inventory_state import State
from novactl.db import aggregates, catalogue, groups, projects, second_copy, settings
from novactl.db.session import Database
from novactl.errors import NotFound, Refused
from novactl.objects.aggregate import Aggregate
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.project import NOVA_LIMITS, Project
from tests.support import fleet

SSD = Aggregate(id="id-ssd", name="ssd", hosts=("kvm2", "kvm1"), metadata={"disk": "fast é"})


def version(db: Database) -> int:
    return db.read(second_copy.version)


def put(db: Database, name: str, value: Any) -> bool:
    return db.write(lambda tx: settings.put(tx, name, value))


def test_a_setting_nobody_made_is_its_default(db: Database) -> None:
    found = db.read(lambda tx: {name: settings.get(tx, name) for name in settings.DEFAULTS})
    assert found == {
        "weighers": {},
        "scheduler": {},
        "policies": [],
        "cron": {},
        "trusted_networks": {},
        "default_network": None,
        "image_store": None,
    }
    found["policies"].append("mine")
    assert db.read(lambda tx: settings.get(tx, "policies")) == []


def test_a_setting_is_kept_and_only_a_change_counts(db: Database) -> None:
    before = version(db)
    assert put(db, "weighers", {"memory": -1.5})
    assert put(db, "weighers", {"memory": 2})
    assert db.read(lambda tx: settings.get(tx, "weighers")) == {"memory": 2}
    assert version(db) == before + 2
    assert not put(db, "weighers", {"memory": 2})
    assert version(db) == before + 2


def test_the_default_again_leaves_no_row(db: Database) -> None:
    put(db, "default_network", "lan")
    assert put(db, "default_network", None)
    assert db.read(lambda tx: tx.all("SELECT * FROM settings")) == []


def test_a_setting_that_is_none(db: Database) -> None:
    with pytest.raises(KeyError, match="colour"):
        put(db, "colour", 7)


def test_an_aggregate_comes_back(db: Database) -> None:
    before = version(db)
    db.write(lambda tx: aggregates.create(tx, SSD))
    kept = replace(SSD, hosts=("kvm1", "kvm2"))
    assert db.read(lambda tx: (aggregates.get(tx, "ssd"), aggregates.get(tx, "id-ssd"))) == (kept, kept)
    assert db.read(aggregates.everything) == [kept]
    assert version(db) == before + 1
    with pytest.raises(Refused, match=r"^aggregate ssd exists already$"):
        db.write(lambda tx: aggregates.create(tx, replace(SSD, id="other")))


def test_an_aggregate_is_changed_and_deleted(db: Database) -> None:
    db.write(lambda tx: aggregates.create(tx, SSD))
    before = version(db)
    db.write(lambda tx: aggregates.update(tx, replace(SSD, hosts=(), metadata={})))
    assert db.read(lambda tx: aggregates.get(tx, "ssd")) == replace(SSD, hosts=(), metadata={})
    db.write(lambda tx: aggregates.delete(tx, "ssd"))
    assert version(db) == before + 2
    with pytest.raises(NotFound, match=r"^aggregate 'ssd' does not exist$"):
        db.write(lambda tx: aggregates.delete(tx, "ssd"))


def test_a_host_that_leaves_is_in_none(db: Database) -> None:
    def work(tx: Any) -> None:
        aggregates.create(tx, SSD)
        aggregates.create(tx, Aggregate(id="id-all", name="all", hosts=("kvm1", "kvm3")))

    db.write(work)
    assert db.read(aggregates.names_by_host) == {"kvm1": ["all", "ssd"], "kvm2": ["ssd"], "kvm3": ["all"]}
    db.write(lambda tx: aggregates.drop_host(tx, "kvm1"))
    assert db.read(aggregates.names_by_host) == {"kvm2": ["ssd"], "kvm3": ["all"]}


def test_what_an_inventory_asks_of_every_database(db: Database) -> None:
    """What is in use, and by how many."""
    fleet.furnish(db, hosts_=2)
    for n in (1, 2):
        fleet.add_instance(db, fleet.instance(n, host="kvm1", ports=(port(n),)))
    fleet.add_instance(db, fleet.instance(3, deleted_at=fleet.WHEN, image=None))
    before = version(db)
    for n, project in enumerate(("default", "shop")):
        made = {"id": fleet.uuid(60 + n), "name": "web", "project": project, "policy": GroupPolicy.AFFINITY}
        db.write(lambda tx, made=made: groups.create(tx, ServerGroup(**made)))
    fleet.add_instance(db, fleet.instance(4, project="shop", group_id=fleet.uuid(61), image=None))
    db.write(lambda tx: projects.create(tx, Project(name="shop", limits={"cores": 3}, created_at=fleet.WHEN)))
    db.write(lambda tx: projects.update(tx, Project(name="shop", limits={"cores": 4})))
    assert version(db) == before + 4

    def work(tx: Any) -> None:
        state = State(tx)
        assert state.used == {"id-lan": 2}
        assert state.taken(state.networks["lan"]) == {"192.0.2.11", "192.0.2.12"}
        assert state.members == {fleet.uuid(61): 1}
        assert projects.find(tx, "shop").instances_used == 1
        assert state.flavors_used == {"id-small": 3} and state.images_used == {"id-tiny": 2}
        assert state.flavor_ids == {"small": "id-small"} and state.lock("host", "kvm1") is None
        assert {kind: sorted(state.of(kind)) for kind in ORDER} == {
            "flavor": ["small"],
            "image": ["tiny"],
            "network": ["lan"],
            "host": ["kvm1", "kvm2"],
            "setting": ["default_network"],
            "project": ["shop"],
            "group": ["shop/web", "web"],
            **{kind: [] for kind in ("keypair", "aggregate", "weigher", "scheduler", "policy", "cron")},
            "trusted-network": [],
        }
        assert state.of("project")["shop"]["limits"] == {**dict.fromkeys(NOVA_LIMITS, -1), "cores": 4}
        assert export(state).keys() == {"hosts", "flavors", "networks", "images", "projects", "groups"}

    db.read(work)


def test_flavors_and_networks_change_in_place(db: Database) -> None:
    fleet.furnish(db)
    before = version(db)
    wanted = fleet.flavor(vcpus=7, extra_specs={"a": "é"})
    lan = fleet.network(gateway=None, dns=(), mtu=9000, pool="192.0.2.9-192.0.2.10", project="shop")

    def work(tx: Any) -> None:
        catalogue.update_flavor(tx, wanted)
        catalogue.update_network(tx, lan)

    db.write(work)
    assert db.read(lambda tx: (catalogue.flavor(tx, "small"), catalogue.network(tx, "lan"))) == (wanted, lan)
    assert version(db) == before + 2


def port(n: int) -> Any:
    return fleet.port(fleet.uuid(n), ip=f"192.0.2.{10 + n}")
