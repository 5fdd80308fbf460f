"""schedule, host capacity, and what boot may ask of its host: decided and refused from the database alone."""

from typing import Any

import pytest

from novactl.db import aggregates, catalogue, groups, hosts, instances, projects, settings
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.aggregate import Aggregate
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.project import Project
from novactl.objects.states import VmState
from tests.support import fleet
from tests.support.command import Command

OF_AGGREGATES = ("tenants", "image_isolation", "flavor_affinity", "instances")
BOOT = ("boot", "new", "--flavor", "small", "--image", "tiny", "--network", "none")
PARTIAL = "boot --partial: 12 of them fit"
ENABLE = "drop --host; or novactl host set kvm3 --enable"


@pytest.fixture
def three(novactl: Command, db: SqliteDatabase) -> Command:
    """kvm1 (rack a, ssd; half full) with db1 in the group apart, kvm2 (rack b) with db2, kvm3 disabled."""
    fleet.image_file(db)
    with db.writing() as tx:
        hosts.add(tx, fleet.host("kvm1", zone="a", labels={"ssd": "yes"}, memory_mib=4608))
        hosts.add(tx, fleet.host("kvm2", zone="b", memory_mib=2560))
        hosts.add(tx, fleet.host("kvm3", zone="b", enabled=False, disabled_reason="fans"))
        catalogue.add_flavor(tx, fleet.flavor())
        catalogue.add_flavor(tx, fleet.flavor("huge", memory_mib=1 << 20))
        catalogue.add_flavor(tx, fleet.flavor("fast", extra_specs={"trait:nvme": "required"}))
        catalogue.add_image(tx, fleet.image())
        catalogue.add_network(tx, fleet.network())
        aggregates.create(tx, Aggregate(id="a1", name="rack-b", hosts=("kvm2",)))
        for policy in GroupPolicy:
            groups.create(tx, ServerGroup(id=policy, name=policy, project="default", policy=policy))
    fleet.add_instance(db, fleet.instance(1, name="db1", host="kvm1", group_id=GroupPolicy.ANTI_AFFINITY))
    fleet.add_instance(db, fleet.instance(2, name="db2", host="kvm2"))
    fleet.add_instance(db, fleet.instance(3, name="lost", host=None))
    fleet.add_instance(db, fleet.instance(4, name="old", host=None, vm_state=VmState.DELETED))
    with db.writing() as tx:
        tx.run("UPDATE instances SET deleted_at = created_at, live_name = NULL WHERE name = 'old'")
    return novactl


def chosen(novactl: Command, *words: str) -> tuple[str, list[str]]:
    found = novactl.json("schedule", "--flavor", "small", *words)
    return found["chosen"], found["alternates"]


def test_the_decision(three: Command) -> None:
    assert chosen(three) == ("kvm1", ["kvm2"])
    assert chosen(three, "--zone", "b") == ("kvm2", [])
    assert chosen(three, "--aggregate", "rack-b") == ("kvm2", [])
    assert chosen(three, "--host", "kvm2") == ("kvm2", [])
    assert chosen(three, "--apart-from", "db1") == ("kvm2", [])
    assert chosen(three, "--with", "db2") == ("kvm2", [])
    assert chosen(three, "--hint", "different_host=db1") == ("kvm2", [])
    assert chosen(three, "--hint", f"same_host={fleet.uuid(2)}") == ("kvm2", [])
    assert chosen(three, "--group", "anti-affinity") == ("kvm2", [])
    assert chosen(three, "--hint", "group=anti-affinity") == ("kvm2", [])
    assert chosen(three, "--group", "affinity") == ("kvm1", ["kvm2"])
    assert chosen(three, "--forbid", "ssd") == ("kvm2", [])
    assert chosen(three, "--forbid", "ssd=no") == ("kvm1", ["kvm2"])
    for words in (("ssd", "ssd=no"), ("ssd=no", "ssd"), ("ssd=no", "ssd=maybe", "ssd")):
        assert chosen(three, *(part for word in words for part in ("--forbid", word))) == ("kvm2", [])
    assert chosen(three, "--require", "ssd=yes", "--require", "ssd") == ("kvm1", [])


def test_every_host_is_explained(three: Command) -> None:
    found = three.json("schedule", "--flavor", "small", "--zone", "b", "--explain")
    rows = {row["host"]: row for row in found["hosts"]}
    assert list(rows) == ["kvm1", "kvm2", "kvm3"]
    assert rows["kvm1"] == {
        "host": "kvm1",
        "passed": False,
        "rejections": [{"filter": "zone", "reason": "is in zone a, not b"}],
        "asked": ["enabled", "up", "zone", "architecture", "capacity", *OF_AGGREGATES],
        "free": {"vcpus": 16, "memory_mib": 4096, "disk_gib": 100},
        "weights": {},
        "weight": None,
    }
    assert rows["kvm2"]["passed"] and rows["kvm2"]["weight"] == 0
    assert rows["kvm3"]["rejections"] == [{"filter": "enabled", "reason": "disabled: fans"}]
    assert found["fixes"] == [] and found["placed"] == {"kvm2": 1}
    table = three.ok("schedule", "--flavor", "small", "--explain").out
    lines = table.splitlines()
    asked = ["ENABLED", "UP", "ARCHITECTURE", "CAPACITY", *(name.upper() for name in OF_AGGREGATES)]
    assert lines[0].split() == ["HOST", "RESULT", "WEIGHT", "WEIGHTS", "FREE", *asked]
    assert [line.split()[0] for line in lines[1:]] == ["kvm1", "kvm2", "kvm3"]
    assert "memory +1.000" in lines[1] and "16 vcpus, 4096 MiB, 100 GiB" in lines[1]
    assert "disabled: fans" in lines[3]


def test_several(three: Command) -> None:
    """kvm1 has room for 8, kvm2 for 4."""
    found = three.json("schedule", "--flavor", "small", "--count", "12")
    assert found["placed"] == {"kvm1": 8, "kvm2": 4}
    ended = three("schedule", "--flavor", "small", "--count", "13", "-o", "json")
    assert (ended.code, ended.json["placed"]) == (5, {"kvm1": 8, "kvm2": 4})
    assert "error: 12 of 13 fit\n" in ended.err
    assert (ended.json["fixes"], ended.error["hint"]) == ([PARTIAL], PARTIAL)
    ended = three("schedule", "--flavor", "small", "--host", "kvm3", "--count", "2", "-o", "json")
    assert (ended.error["message"], ended.error["hint"]) == ("0 of 2 fit", ENABLE)
    assert three.json("schedule", "--flavor", "small", "--count", "3", "--group", "affinity")["placed"] == {
        "kvm1": 3
    }
    assert three("schedule", "--flavor", "small", "--count", "2", "--group", "anti-affinity").code == 5


def test_nobody_and_what_would_help(three: Command) -> None:
    ended = three("schedule", "--flavor", "small", "--zone", "b", "--with", "db1", "-o", "json")
    assert ended.code == 5
    assert ended.json["chosen"] is None
    assert ended.json["fixes"] == ["drop --with", "drop --zone"]
    assert (
        "error: an instance of small: no host can take it\nhint: drop --with; or drop --zone\n" in ended.err
    )
    ended = three("schedule", "--flavor", "huge")
    assert ended.code == 5
    assert "hint: novactl host list shows capacity\n" in ended.err  # no host is as large


def test_capacity(three: Command) -> None:
    """db1 on kvm1 would find a place on kvm2 (its hold is not counted here: fleet.instance has none)."""
    found = three.json("host", "capacity", "--flavor", "small")
    assert (found["flavor"], found["fits"]) == ("small", 12)
    assert (found["lost_host"], found["fits_after_any_host_lost"]) == ("kvm1", 4)
    assert found["hosts"] == [
        {"host": "kvm1", "fits": 8, "reason": None},
        {"host": "kvm2", "fits": 4, "reason": None},
        {"host": "kvm3", "fits": 0, "reason": "disabled: fans"},
    ]
    ended = three.ok("host", "capacity", "--flavor", "small")
    assert ended.err == "12 of small fit; after the loss of kvm1, the worst: 4\n"
    assert three.json("host", "capacity", "--flavor", "small", "--zone", "a")["fits"] == 8
    assert three.json("host", "capacity", "--flavor", "huge")["fits"] == 0


def test_capacity_after_a_loss_counts_what_has_to_go_elsewhere(three: Command, db: SqliteDatabase) -> None:
    """kvm1's 6 instances take kvm2's 4 places: two find none."""
    amounts = fleet.instance(1).resources
    with db.writing() as tx:
        for n in range(6):
            assert hosts.claim(tx, "kvm1", fleet.uuid(100 + n), amounts)
    found = three.json("host", "capacity", "--flavor", "small")
    assert (found["fits"], found["lost_host"], found["fits_after_any_host_lost"]) == (6, "kvm1", -2)
    assert "and 2 of its instances find no place" in three.ok("host", "capacity", "--flavor", "small").err


def test_capacity_after_a_loss_of_a_host_that_takes_nothing_any_more(
    three: Command, db: SqliteDatabase
) -> None:
    """The disabled kvm1 can be lost too: its 6 instances take kvm2's 4 places."""
    amounts = fleet.instance(1).resources
    with db.writing() as tx:
        for n in range(6):
            assert hosts.claim(tx, "kvm1", fleet.uuid(100 + n), amounts)
        hosts.update(tx, "kvm1", enabled=0)
    found = three.json("host", "capacity", "--flavor", "small")
    assert (found["fits"], found["lost_host"], found["fits_after_any_host_lost"]) == (4, "kvm1", -2)


@pytest.mark.parametrize(("most", "fits", "left"), [(7, 9, 2), (5, 5, 0), (4, 3, -1), (3, 2, -2)])
def test_capacity_after_a_loss_minds_how_many_a_host_may_have(
    three: Command, db: SqliteDatabase, most: int, fits: int, left: int
) -> None:
    """kvm1 has 4, kvm2 has 1 and room for 9 more."""
    with db.writing() as tx:
        hosts.update(tx, "kvm2", memory_mib=5632)
        settings.put(tx, "scheduler", {"max_instances_per_host": most})
        for n in range(3):
            other = fleet.instance(10 + n, name=f"x{n}", host="kvm1")
            instances.add(tx, other)
            assert hosts.claim(tx, "kvm1", other.uuid, other.resources)
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), fleet.instance(1).resources)
    found = three.json("host", "capacity", "--flavor", "small")
    assert (found["fits"], found["lost_host"], found["fits_after_any_host_lost"]) == (fits, "kvm1", left)


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("--zone", "x"), 5, "zone 'x': no host is in it"),
    (("--aggregate", "x"), 4, "aggregate 'x' does not exist"),
    (("--host", "kvm9"), 4, "host 'kvm9' does not exist"),
    (("--group", "x"), 4, "group 'x' does not exist"),
    (("--group", ""), 4, "group '' does not exist"),
    (("--apart-from", "db9"), 4, "instance 'db9' does not exist"),
    (("--with", fleet.uuid(4)), 5, "was deleted at"),
    (("--apart-from", fleet.uuid(4)), 5, "was deleted at"),
    (("--with", "lost"), 5, "instance lost has no host to be together with it on"),
    (("--with", "db1", "--with", "db2"), 5, "cannot be together with all of them: db1 on kvm1, db2 on kvm2"),
    (
        ("--with", "db1", "--apart-from", "db1"),
        2,
        "instance db1: cannot be both together with it and apart from it",
    ),
    (("--hint", "group=affinity", "--group", "anti-affinity"), 2, "name different groups"),
    (("--hint", "different_host"), 2, "is not one of group=…, different_host=…, same_host=…"),
    (("--hint", "query=x"), 2, "is not one of"),
    (("--require", "=x"), 2, "--require: label '' is not acceptable"),
    (("--forbid", "my label"), 2, "--forbid: label 'my label' is not acceptable"),
    (("--forbid", "a=\x01"), 2, "--forbid a"),
    (("--require", "a=1", "--require", "a=2"), 2, "--require a: cannot be both 1 and 2"),
    (("--forbid", "a=1", "--forbid", "a=2"), 2, "--forbid a: 1 and 2 cannot be kept both"),
    (("--forbid", "a=1", "--forbid", "a=2"), 2, "--forbid a forbids it with any value"),
    (("--require", "ssd", "--forbid", "ssd"), 2, "label ssd: both required and forbidden"),
    (("--count", "0"), 2, "--count 0 is not within 1 to 10000"),
    (("--count", "-3"), 2, "--count -3 is not within 1 to 10000"),
    (("--host", "kvm1", "--zone", "b"), 5, "no host can take it"),
    (("--group", "affinity", "--with", "db2", "--host", "kvm1"), 5, "no host can take it"),
    (("--require", "gpu"), 5, "no host can take it"),
]


@pytest.mark.parametrize(("words", "code", "says"), BAD)
def test_refused_with_the_reason_and_nothing_claimed(
    three: Command, db: SqliteDatabase, words: tuple[str, ...], code: int, says: str
) -> None:
    for command in (("schedule", "--flavor", "small"), BOOT):
        ended = three(*command, *words)
        assert (ended.code, says in ended.err) == (code, True), ended.err
    with db.reading() as tx:
        assert (
            tx.all("SELECT * FROM holds") == []
            and tx.all("SELECT * FROM operations WHERE kind = 'boot'") == []
        )
        assert len(tx.all("SELECT * FROM instances")) == 4


def test_a_flavor_asks_for_a_trait(three: Command) -> None:
    ended = three("schedule", "--flavor", "fast", "--explain")
    assert (ended.code, ended.out.count("has no label nvme")) == (5, 3)
    three.ok("host", "set", "kvm2", "--label", "nvme=yes")
    assert three.json("schedule", "--flavor", "fast")["chosen"] == "kvm2"


def test_dry_run_explains_what_boot_would_do(three: Command) -> None:
    plan = three.json(*BOOT, "--dry-run", "--explain", "--apart-from", "db1")
    assert (plan["host"], plan["changes"]["placement"]["chosen"]) == ("kvm2", "kvm2")
    reasons = {row["host"]: row["rejections"] for row in plan["changes"]["placement"]["hosts"]}
    assert reasons["kvm1"] == [{"filter": "apart_from", "reason": "has db1, to be apart from"}]
    told = three.ok(*BOOT, "--dry-run", "--explain").err
    assert "kvm3: no enabled: disabled: fans" in told and "kvm1: chosen" in told


def test_partial_plans_what_fits(three: Command) -> None:
    ended = three(*BOOT, "--dry-run", "--count", "14", "--partial", "-o", "json")
    assert (ended.code, "error: 2 of 14 would be refused: new-13, new-14\n" in ended.err) == (3, True)
    plans = ended.json
    assert [plan["host"] for plan in plans].count("kvm1") == 8
    assert [plan["host"] for plan in plans].count("kvm2") == 4
    refused = [plan for plan in plans if "refused" in plan]
    assert [(plan["target"], plan["steps"]) for plan in refused] == [("new-13", []), ("new-14", [])]
    ended = three(*BOOT, "--dry-run", "--count", "14", "-o", "json")
    assert (ended.code, ended.error["hint"]) == (5, PARTIAL)
    ended = three(*BOOT, "--dry-run", "--count", "2", "--host", "kvm3", "-o", "json")
    assert (ended.code, ended.error["hint"]) == (5, ENABLE)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"instances": 2}, "instances: 1 wanted, 0 left of 2"),
        ({"cores": 2}, "cores: 1 wanted, 0 left of 2"),
        ({"memory_mib": 1500}, "memory_mib: 512 wanted, 476 left of 1500"),
        ({"instances": 0, "cores": 0}, "instances: 1 wanted, 0 left of 0; cores: 1 wanted, 0 left of 0"),
    ],
)
def test_quota(three: Command, db: SqliteDatabase, limits: dict[str, int], says: str) -> None:
    with db.writing() as tx:
        tx.run("UPDATE instances SET deleted_at = created_at, live_name = NULL WHERE name = 'lost'")
        projects.create(tx, Project(name="default", limits=limits))
    ended = three(*BOOT)
    assert ended.code == 5
    assert f"error: project default is at its quota: {says}\n" in ended.err


def test_hosts_of_other_settings(three: Command, db: SqliteDatabase) -> None:
    """Rules and multipliers come from the inventory's settings."""
    settings: dict[str, Any] = {"weighers": {"memory": -1.0, "vcpus": -1.0, "disk": -1.0}}
    from novactl.db import settings as stored

    with db.writing() as tx:
        stored.put(tx, "weighers", settings["weighers"])
    assert chosen(three) == ("kvm2", ["kvm1"])
    with db.writing() as tx:
        stored.put(tx, "scheduler", {"max_instances_per_host": 1})
    ended = three("schedule", "--flavor", "small", "--explain")
    assert (ended.code, ended.out.count("has 1 instances, 1 allowed")) == (5, 2)


def test_quota_of_a_group_and_of_metadata(three: Command) -> None:
    """The group has one member: no more may come; nor more metadata than the project allows."""
    three.ok("quota", "set", "default", "server_group_members=1", "metadata_items=1")
    ended = three(*BOOT, "--group", "anti-affinity")
    assert (ended.code, "server_group_members: 1 wanted, 0 left of 1" in ended.err) == (5, True), ended.err
    ended = three(*BOOT, "--meta", "a=1", "--meta", "b=2")
    assert (ended.code, "metadata_items: 2 wanted, 1 left of 1" in ended.err) == (5, True), ended.err
