"""inventory and aggregate as a user runs them: what differs, what is done, what is refused, how it ends."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from novactl.actions.cron.registry import TASKS
from novactl.actions.inventory import Content, Options, plan, read
from novactl.actions.inventory_apply import Apply
from novactl.actions.inventory_export import export
from novactl.actions.inventory_state import State
from novactl.cli.inventory import dumped
from novactl.cloud import Cloud
from novactl.db import aggregates, catalogue, hosts, instances, projects
from novactl.db import groups as groups_
from novactl.db import settings as kept
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.aggregate import Aggregate
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.keypair import Keypair, parse_public_key
from novactl.objects.project import NOVA_LIMITS, Project
from novactl.scheduler.select import WEIGHERS
from novactl.settings import Settings
from tests.support import fleet, scratch
from tests.support.command import Command, Ended

BLOB = b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x20"
EXAMPLE = Path(__file__).parents[2] / "inventory" / "example"
Write = Callable[..., Path]


def public(letter: str) -> str:
    return f"ssh-ed25519 {base64.b64encode(BLOB + letter.encode() * 32).decode()} {letter}@here"


HOST_KEY = public("h").rpartition(" ")[0]
HOST_FINGERPRINT = parse_public_key("h", HOST_KEY).fingerprint


@pytest.fixture
def write(novactl: Command) -> Write:
    """Writes the inventory of the configuration directory anew, as one file."""

    def work(data: Any, name: str = "fleet") -> Path:
        path = novactl.config / "inventory" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return path

    return work


@pytest.fixture
def stocked(novactl: Command, db: SqliteDatabase) -> Command:
    """kvm1 with an instance and an address of lan, kvm2 with nothing."""
    fleet.furnish(db, hosts_=2, host_keys=(HOST_KEY,))
    uuid = fleet.uuid(1)
    fleet.add_instance(db, fleet.instance(1, host="kvm1", ports=(fleet.port(uuid),)))
    return novactl


def today(novactl: Command) -> dict[str, Any]:
    """The database as inventory data."""
    return dict(yaml.safe_load(novactl.ok("inventory", "export").out))


def changes(novactl: Command, *words: str, code: int = 10) -> list[tuple[str, str, str]]:
    ended = novactl("inventory", "diff", "-o", "json", *words)
    assert ended.code == code, ended.err
    return [(row["kind"], row["name"], row["change"]) for row in ended.json]


def refused(novactl: Command, *words: str, code: int, says: str, hint: str = "") -> Ended:
    ended = novactl(*words, "-o", "json")
    assert (ended.code, ended.error["code"]) == (code, code), ended.err
    assert says in ended.error["message"] and hint in ended.error["hint"], ended.err
    return ended


SMALL = {"vcpus": 2, "memory_mib": 512, "disk_gib": 1}
LAN = {"cidr": "192.0.2.0/24", "bridge": "br0", "gateway": "192.0.2.1", "dns": ["192.0.2.2"]}
EVERYTHING: dict[str, Any] = {
    "flavors": {"small": SMALL, "big": {**SMALL, "swap_mib": 64, "extra_specs": {"a": "b"}}},
    "networks": {"lan": LAN, "dmz": {"cidr": "198.51.100.0/24", "bridge": "br1"}},
    "keypairs": {"me": {"public_key": public("a")}, "shop/me": {"public_key": public("b")}},
    "projects": {"shop": {"description": "é", "limits": {"instances": 3, "cores": "unlimited"}}},
    "groups": {
        "web": {"policy": "anti-affinity", "max_per_host": 2},
        "shop/web": {"policy": "soft-affinity"},
    },
    "weighers": {"memory": -1, "vcpus": 0},
    "scheduler": {"host_subset_size": 4, "max_instances_per_host": 0},
    "policies": {"night": {"do": "stop", "at": "20:00", "selector": ["tier=dev"], "days": ["mon"]}},
    "cron": {"prune-caches": {"every": "1h", "jitter": "5m", "older": "3d", "enabled": False}},
    "trusted_networks": {"storage": "198.51.100.0/24"},
    "default_network": "lan",
}


def test_applied_there_is_nothing_left(novactl: Command, db: SqliteDatabase, write: Write) -> None:
    write(EVERYTHING)
    assert len(changes(novactl)) == 17
    rows = novactl.json("inventory", "apply")
    assert {row["result"] for row in rows} == {"done"} and {row["code"] for row in rows} == {0}
    assert novactl.json("inventory", "diff") == []
    again = novactl("inventory", "apply", "-o", "json")
    assert (again.code, again.json) == (0, []) and "nothing differs" in again.err
    assert novactl.json("flavor", "show", "big")["swap_mib"] == 64
    assert novactl.json("network", "show", "dmz")["cidr"] == "198.51.100.0/24"
    assert novactl.json("keypair", "show", "me", "--project", "shop")["public_key"] == public("b")
    shop = novactl.json("project", "show", "shop")
    assert shop["limits"] == {**NOVA_LIMITS, "instances": 3, "cores": -1} and shop["description"] == "é"
    assert [one["max_per_host"] for one in novactl.json("group", "list")] == [2]
    assert novactl.json("group", "show", "web", "--project", "shop")["policy"] == "soft-affinity"
    with db.reading() as tx:
        assert kept.get(tx, "scheduler") == {"host_subset_size": 4, "max_instances_per_host": 0}
        assert kept.get(tx, "weighers") == {"memory": -1, "vcpus": 0}
        assert kept.get(tx, "cron") == {
            "prune-caches": {"every": 3600, "jitter": 300, "older": 259200, "enabled": False}
        }
        assert [one["name"] for one in kept.get(tx, "policies")] == ["night"]
        assert kept.get(tx, "trusted_networks") == {"storage": "198.51.100.0/24"}
        assert kept.get(tx, "default_network") == "lan"


def test_fields_and_the_dry_run(novactl: Command, write: Write) -> None:
    write(EVERYTHING)
    novactl.ok("inventory", "apply")
    small = {**SMALL, "vcpus": 4}
    write({**EVERYTHING, "flavors": {"small": small}, "cron": {"prune-caches": {"every": "2h"}}})
    (flavor, extra, cron) = novactl("inventory", "diff", "-o", "json").json
    expected = {"kind": "flavor", "name": "small", "change": "update", "refused": None}
    assert flavor == {**expected, "fields": {"vcpus": [2, 4]}}
    assert extra == {"kind": "flavor", "name": "big", "change": "extra", "fields": {}, "refused": None}
    changed = {"every": [3600, 7200], "jitter": [300, None], "enabled": [False, True]}
    assert cron["fields"] == {**changed, "older": [259200, None]}
    assert "vcpus: 2 → 4" in novactl("inventory", "diff").out
    dry = novactl.json("inventory", "apply", "--dry-run")
    assert [row["name"] for row in dry] == ["small", "big", "prune-caches"]
    assert novactl.json("flavor", "show", "small")["vcpus"] == 2
    done = novactl("inventory", "apply", "-o", "json")
    assert done.code == 0 and "left alone: flavor big (--prune)" in done.err
    assert [(row["name"], row["result"]) for row in done.json] == [
        ("small", "done"),
        ("big", "skipped"),
        ("prune-caches", "done"),
    ]
    assert changes(novactl) == [("flavor", "big", "extra")]


def test_prune_asks_and_removes(novactl: Command, write: Write) -> None:
    write(EVERYTHING)
    novactl.ok("inventory", "apply")
    left: dict[str, Any] = {name: {} for name in EVERYTHING if name != "default_network"}
    write({**left, "default_network": None})
    assert {change for _, _, change in changes(novactl, "--prune")} == {"remove", "update"}
    refused(novactl, "inventory", "apply", "--prune", code=8, says="remove flavor big, flavor small, ")
    assert len(novactl.json("flavor", "list")) == 2
    novactl.ok("inventory", "apply", "--prune", "--yes")
    assert novactl.json("inventory", "diff", "--prune") == [] and today(novactl) is not None
    kinds = ("flavor", "network", "keypair", "project", "group")
    assert [novactl.json(kind, "list") for kind in kinds] == [[]] * len(kinds)


def test_a_section_that_no_file_has_is_not_managed(stocked: Command, write: Write) -> None:
    write({"weighers": {"memory": 2}})
    stocked.ok("inventory", "apply", "--prune", "--yes")
    assert len(stocked.json("host", "list")) == 2 and len(stocked.json("network", "list")) == 1


def test_what_a_host_offers_changes_in_place(stocked: Command, db: SqliteDatabase, write: Write) -> None:
    data = today(stocked)
    kvm1 = data["hosts"]["kvm1"]
    kvm1 |= {"labels": {"tier": "1e3", "on": "no"}, "zone": "east", "cpu_ratio": 2, "reserved_memory_mib": 7}
    kvm1 |= {"enabled": False, "disabled_reason": "new disks"}
    data["aggregates"] = {"ssd": {"hosts": ["kvm2", "kvm1"], "metadata": {"disk": "fast"}}}
    write(dumped(data))
    assert changes(stocked) == [("host", "kvm1", "update"), ("aggregate", "ssd", "create")]
    stocked.ok("inventory", "apply")
    shown = stocked.json("host", "show", "kvm1")
    assert (shown["labels"], shown["zone"]) == ({"tier": "1e3", "on": "no"}, "east")
    assert (shown["cpu_ratio"], shown["reserved_memory_mib"]) == (2, 7)
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "new disks")
    assert [host["aggregates"] for host in stocked.json("host", "list")] == [["ssd"], ["ssd"]]
    assert today(stocked)["hosts"]["kvm1"]["enabled"] is False
    stocked.ok("host", "set", "kvm1", "--enable")
    assert changes(stocked) == [("host", "kvm1", "update")]


def test_processors_that_are_set_aside(stocked: Command, db: SqliteDatabase, write: Write) -> None:
    with db.writing() as tx:
        topology = [{"id": 0, "cores": "0 1 2 3", "memory_mib": 4096, "pages": {}}]
        hosts.update(tx, "kvm1", facts={"topology": topology})
    data = today(stocked)
    data["hosts"]["kvm1"]["dedicated_cpus"] = "3,2"
    write(dumped(data))
    assert changes(stocked) == [("host", "kvm1", "update")]
    stocked.ok("inventory", "apply")
    assert stocked.json("host", "show", "kvm1")["dedicated_cpus"] == "2-3"
    assert today(stocked)["hosts"]["kvm1"]["dedicated_cpus"] == "2-3"
    with db.reading() as tx:
        assert hosts.get(tx, "kvm1").capacity()["vcpus"] == 2 * 4.0
    data["hosts"]["kvm1"]["dedicated_cpus"] = "7"
    data["hosts"]["kvm2"]["dedicated_cpus"] = "1"
    write(dumped(data))
    refused(stocked, "inventory", "apply", code=5, says="host kvm1: has no cpu 7: it has 0-3")
    refused(stocked, "inventory", "apply", code=5, says="host kvm2: its processors are not known yet")


def test_what_is_not_stated_of_a_host_is_left(stocked: Command, write: Write) -> None:
    stocked.ok("host", "set", "kvm1", "--zone", "west", "--cpu-ratio", "9", "--disable", "--reason", "x")
    write({"hosts": {"kvm1": {"address": "kvm1.example"}, "kvm2": {"address": "kvm2.example"}}})
    assert stocked.json("inventory", "diff") == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("hosts", "kvm1", "address", "192.0.2.77"), "host kvm1: the address of an enrolled host cannot"),
        (("hosts", "kvm1", "port", 23), "host kvm1: the port of an enrolled host cannot change"),
        (("hosts", "kvm1", "instances_path", "/srv"), "host kvm1: the instances path of an enrolled host"),
        (("hosts", "kvm1", None, None), "host kvm1: has 1 instances"),
        (("networks", "lan", "cidr", "192.0.2.0/25"), "network lan: its cidr cannot change: 1 addresses are"),
        (("networks", "lan", "bridge", "br9"), "network lan: its bridge cannot change: 1 addresses are in"),
        (("networks", "lan", "gateway", "192.0.2.10"), "network lan: 192.0.2.10 is an instance's address"),
        (("networks", "lan", None, None), "network lan: 1 addresses are in use"),
        (("flavors", "small", None, None), "flavor small: 1 instances are of it"),
        (("images", "tiny", None, None), "image tiny: 1 instances are of it"),
        (("images", "tiny", "sha256", "cd" * 32), "image tiny: sha256 " + "cd" * 32 + " is not in the store"),
        (("images", "new", "file", "no/such"), "image new: "),
        (("hosts", "new", "address", "192.0.2.77"), "host new: its fingerprint is not stated; --accept"),
    ],
)
def test_what_is_refused_leaves_all_as_it_is(
    stocked: Command, write: Write, change: tuple[str, str, str | None, Any], says: str
) -> None:
    data = today(stocked)
    section, name, field, value = change
    if field is None:
        del data[section][name]
    else:
        data[section].setdefault(name, {})[field] = value
    data["weighers"] = {"memory": 3}
    write(dumped(data))
    ended = refused(stocked, "inventory", "apply", "--prune", "--yes", code=5, says=says, hint="--partial")
    assert "1 of 2 changes are refused, nothing was done" in ended.error["message"]
    assert [row["kind"] for row in ended.json if row["refused"]] == [section.removesuffix("s")]
    assert "weighers" not in today(stocked)
    partly = stocked("inventory", "apply", "--prune", "--yes", "--partial", "-o", "json")
    assert partly.code == 3 and says in partly.err
    results = {(row["kind"], row["result"], row["code"]) for row in partly.json}
    assert results == {(section.removesuffix("s"), "skipped", 5), ("weigher", "done", 0)}
    assert today(stocked)["weighers"] == {"memory": 3}


def test_a_host_that_a_waiting_move_may_go_back_to_stays(
    stocked: Command, db: SqliteDatabase, write: Write
) -> None:
    one = fleet.instance(1)
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm2", one.uuid, one.resources, "move-source")
    data = today(stocked)
    del data["hosts"]["kvm2"]
    write(dumped(data))
    says = "kvm2: web1 still has a share of it: novactl resize-confirm web1 or novactl resize-revert web1"
    refused(stocked, "inventory", "apply", "--prune", "--yes", code=5, says=says)
    assert "kvm2" in today(stocked)["hosts"]


def test_an_operation_at_work_is_in_the_way(stocked: Command, db: SqliteDatabase, write: Write) -> None:
    data = today(stocked)
    del data["hosts"]["kvm2"]
    write(dumped(data))
    with db.writing() as tx:
        tx.insert(
            "operations",
            **dict.fromkeys(("id", "kind", "target", "project", "request", "state", "owner"), "x"),
            **dict.fromkeys(("owner_key", "user", "written_by", "started_at"), "x"),
            **dict.fromkeys(("attempt", "epoch", "cancel_requested"), 0),
        )
        tx.insert("op_locks", kind="host", id="kvm2", operation="x", mode="S")
    words = ("inventory", "apply", "--prune", "--yes")
    refused(stocked, *words, code=5, says="host kvm2: is in use by operation x")


def test_what_refers_to_nothing_is_named_with_its_place(stocked: Command, write: Write) -> None:
    data = {
        "hosts": {
            "kvm1": {"address": "kvm1.example"},
            "kvm9": {"address": "a", "jump": "kvm8", "fingerprint": HOST_FINGERPRINT},
        },
        "aggregates": {"ssd": {"hosts": ["kvm2", "kvm7"]}},
        "policies": {"p": {"do": "keep-running", "on": "kvm6"}},
        "default_network": "wan",
        "weighers": {"colour": 1},
        "images": {"a": {"file": "x", "sha256": "ab" * 32, "properties": {"hw_disk_bus": "ide"}}},
    }
    path = write(data)
    error = refused(stocked, "inventory", "diff", code=2, says="6 faults").error
    assert [(row["path"], row["message"]) for row in error["targets"]] == [
        ("hosts.kvm9.jump", "host 'kvm8' is neither in the files nor in the database"),
        ("aggregates.ssd.hosts[1]", "host 'kvm7' is neither in the files nor in the database"),
        ("policies.p.on", "host 'kvm6' is neither in the files nor in the database"),
        ("default_network", "network 'wan' is neither in the files nor in the database"),
        ("weighers.colour", f"there is no such weigher: {', '.join(WEIGHERS)}"),
        ("images.a.properties", "image property hw_disk_bus='ide': one of virtio, scsi, sata"),
    ]
    assert {row["file"] for row in error["targets"]} == {str(path)}
    error = refused(stocked, "inventory", "diff", "--prune", code=2, says="7 faults").error
    assert "host 'kvm2' is neither" in error["message"]


def test_a_host_that_cannot_be_reached_is_a_row(stocked: Command, write: Write) -> None:
    data = today(stocked)
    dead = {"address": "127.0.0.1", "port": 1, "fingerprint": HOST_FINGERPRINT}
    data["hosts"]["dead"] = dead
    data["hosts"]["behind"] = {**dead, "port": 2, "jump": "dead"}
    data["aggregates"] = {"new": {"hosts": ["dead"]}, "old": {"hosts": ["kvm1"]}}
    write(dumped(data))
    ended = stocked("inventory", "apply", "-o", "json")
    assert ended.code == 3
    rows = {row["name"]: (row["result"], row["code"]) for row in ended.json}
    assert rows == {"dead": ("failed", 7), "behind": ("failed", 7), "new": ("failed", 5), "old": ("done", 0)}
    assert "error: host dead: 127.0.0.1: port 1: connection refused" in ended.err
    assert "behind: host dead, which it is reached through, failed" in ended.err
    assert "aggregate new: host dead is not enrolled" in ended.err
    alone = today(stocked)
    alone["hosts"]["dead"] = dead
    write(dumped(alone))
    refused(stocked, "inventory", "apply", code=7, says="127.0.0.1: port 1: connection refused")
    assert [host["name"] for host in stocked.json("host", "list")] == ["kvm1", "kvm2"]


def test_a_host_that_leaves_leaves_its_aggregates(stocked: Command, db: SqliteDatabase, write: Write) -> None:
    """Nobody answers there: it is forgotten all the same, and the rest goes on."""
    stocked.ok("aggregate", "create", "ssd", "--host", "kvm1", "--host", "kvm2")
    with db.writing() as tx:
        hosts.update(tx, "kvm2", address="127.0.0.1", port=1)
    data = today(stocked)
    del data["hosts"]["kvm2"]
    data["aggregates"]["ssd"] |= {"hosts": ["kvm1"], "metadata": {"a": "b"}}
    write(dumped(data))
    ended = stocked.ok("inventory", "apply", "--prune", "--yes", "-o", "json")
    assert {row["result"] for row in ended.json} == {"done"} and "its fleet mark stays there" in ended.err
    assert stocked.json("aggregate", "show", "ssd")["hosts"] == ["kvm1"]
    assert stocked.json("inventory", "diff", "--prune") == []


def test_groups_that_are_in_use_stay(stocked: Command, db: SqliteDatabase, write: Write) -> None:
    stocked.ok("group", "create", "web", "--policy", "anti-affinity")
    id_ = stocked.json("group", "show", "web")["id"]
    fleet.add_instance(db, fleet.instance(2, group_id=id_))
    write({"groups": {"web": {"policy": "affinity"}}})
    says = "group web: its policy cannot change: it is the group of 1 instances"
    refused(stocked, "inventory", "apply", code=5, says=says)
    write({"groups": {"web": {"policy": "anti-affinity", "max_per_host": 3}}})
    refused(stocked, "inventory", "apply", code=5, says="group web: its max_per_host cannot change: it is")
    write({"groups": {}})
    stocked.ok("inventory", "apply")  # extra
    words = ("inventory", "apply", "--prune", "--yes")
    refused(stocked, *words, code=5, says="group web: is the group of 1 instances")
    with db.writing() as tx:
        instances.bury(tx, fleet.uuid(2), fleet.WHEN, None)
    write({"groups": {"web": {"policy": "anti-affinity", "max_per_host": 3}}})
    stocked.ok("inventory", "apply")
    assert stocked.json("group", "show", "web")["max_per_host"] == 3
    assert stocked.json("group", "show", "web")["id"] == id_
    write({"groups": {}})
    stocked.ok(*words)
    assert stocked.json("group", "list") == []


def test_a_project_goes_with_what_leaves_beside_it(
    stocked: Command, db: SqliteDatabase, write: Write
) -> None:
    shop = {"projects": {"shop": {}}, "groups": {"shop/web": {"policy": "affinity"}}}
    shop["keypairs"] = {"shop/me": {"public_key": public("a")}}
    write(shop)
    stocked.ok("inventory", "apply")
    words = ("inventory", "apply", "--prune", "--yes")
    write({"projects": {}, "groups": {}})
    refused(stocked, *words, code=5, says="project shop: has 1 keypairs (me)")
    fleet.add_instance(db, fleet.instance(2, project="shop"))
    write({"projects": {}, "groups": {}, "keypairs": {}})
    refused(stocked, *words, code=5, says="project shop: has 1 instances (web2)")
    with db.writing() as tx:
        instances.bury(tx, fleet.uuid(2), fleet.WHEN, None)
    rows = stocked.json(*words)
    assert {(row["kind"], row["change"], row["result"]) for row in rows} == {
        (kind, "remove", "done") for kind in ("project", "group", "keypair")
    }
    assert stocked.json("project", "list") == []


def test_a_new_project_s_limits_hold_for_what_comes_with_it(novactl: Command, write: Write) -> None:
    groups = {f"shop/g{n}": {"policy": "affinity"} for n in range(3)}
    write({"projects": {"shop": {"limits": {"server_groups": 2}}}, "groups": groups})
    ended = novactl("inventory", "apply", "-o", "json")
    assert ended.code == 5 and "server_groups: 1 wanted, 0 left of 2" in ended.err
    assert {row["result"] for row in ended.json} == {"failed"}
    assert novactl.json("project", "list") == novactl.json("group", "list", "--project", "shop") == []
    del groups["shop/g2"]
    write({"projects": {"shop": {"limits": {"server_groups": 2}}}, "groups": groups})
    novactl.ok("inventory", "apply")
    assert len(novactl.json("group", "list", "--project", "shop")) == 2


def test_a_limit_below_the_use_may_be_in_a_file(stocked: Command, write: Write) -> None:
    write({"projects": {"default": {"limits": {"instances": 0}}}})
    stocked.ok("inventory", "apply")
    shown = stocked.json("project", "show", "default")
    assert (shown["limits"]["instances"], shown["instances_used"]) == (0, 1)
    assert stocked.json("inventory", "diff") == []


def test_what_is_named_anew_makes_room_first(novactl: Command, write: Write) -> None:
    write({"networks": {"lan": LAN}, "flavors": {"small": SMALL}})
    novactl.ok("inventory", "apply")
    write({"networks": {"net": LAN}, "flavors": {"tiny": SMALL}})
    refused(novactl, "inventory", "apply", code=5, says="network net: network lan (192.0.2.0/24) has some of")
    novactl.ok("inventory", "apply", "--prune", "--yes")
    assert [one["name"] for one in novactl.json("network", "list")] == ["net"]


# --- images ---


def test_images_by_content(novactl: Command, write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"a" * 512)
    (tmp_path / "kernel").write_bytes(b"k")
    spec = {"file": str(tmp_path / "a.raw"), "format": "raw", "kernel": str(tmp_path / "kernel")}
    write({"images": {"a": spec}})
    novactl.ok("inventory", "apply")
    first = novactl.json("image", "show", "a")
    assert novactl.json("inventory", "diff") == []
    write(
        {"images": {"a": {**spec, "properties": {"os_distro": "debian"}, "min_disk_gib": 2, "cmdline": "q"}}}
    )
    novactl.ok("inventory", "apply")
    second = novactl.json("image", "show", "a")
    assert (second["id"], second["properties"], second["cmdline"]) == (
        first["id"],
        {"os_distro": "debian"},
        "q",
    )
    (tmp_path / "a.raw").write_bytes(b"b" * 512)
    write({"images": {"a": spec}})
    (row,) = novactl("inventory", "diff", "-o", "json").json
    assert row["change"] == "replace" and row["fields"]["sha256"][0] == first["sha256"]
    novactl.ok("inventory", "apply")
    third = novactl.json("image", "show", "a")
    assert third["id"] != first["id"] and third["sha256"] == row["fields"]["sha256"][1]
    stored = {path.name for path in (novactl.config / "images").iterdir()} - {".incoming", ".users"}
    assert stored == {third["sha256"], third["kernel_sha256"]}  # what nobody needs is gone
    write({"images": {}})
    novactl.ok("inventory", "apply", "--prune", "--yes")
    assert {path.name for path in (novactl.config / "images").iterdir()} == {".incoming"}


def test_a_stated_sum_is_believed_until_the_file_is_taken_in(
    novactl: Command, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "a.raw").write_bytes(b"a" * 512)
    spec = {"file": str(tmp_path / "a.raw"), "format": "raw", "sha256": "ab" * 32}
    write({"images": {"a": spec}})
    assert changes(novactl) == [("image", "a", "create")]
    refused(novactl, "inventory", "apply", code=5, says=f"not {'ab' * 32}")
    assert novactl.json("image", "list") == []
    (tmp_path / "k").write_bytes(b"k")
    del spec["sha256"]
    write({"images": {"a": {**spec, "kernel": str(tmp_path / "k"), "kernel_sha256": "cd" * 32}}})
    refused(novactl, "inventory", "apply", code=5, says=f"not {'cd' * 32}")
    assert {path.name for path in (novactl.config / "images").iterdir()} == {".incoming"}


def test_an_exported_image_comes_back_from_the_store(novactl: Command, write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"a" * 512)
    novactl.ok("image", "add", "a", "--file", str(tmp_path / "a.raw"), "--format", "raw")
    sections = today(novactl)
    sections["images"]["b"] = sections["images"]["a"]
    write(dumped(sections))
    novactl.ok("inventory", "apply")
    assert novactl.json("image", "show", "b")["sha256"] == novactl.json("image", "show", "a")["sha256"]


# --- killed, and met by others ---


class Killed(BaseException):
    """As if the process were gone."""


class Mortal:
    """A database whose user dies at its n-th commit: just before it, or just after."""

    def __init__(self, db: Any, n: int, *, after: bool) -> None:
        self._db, self._left, self._after = db, n, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def write(self, work: Any, **options: Any) -> Any:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        found = self._db.write(work, **options)
        if self._left == 0:
            raise Killed
        return found


def prepared(cloud: Cloud, path: Path, *, prune: bool = True) -> Apply:
    return Apply(cloud.world, cloud, read(path), Options(prune=prune))


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_commit_again_finishes(tmp_path: Path, after: bool) -> None:
    (tmp_path / "a.raw").write_bytes(b"a" * 512)
    spec = {"file": str(tmp_path / "a.raw"), "format": "raw"}
    path = tmp_path / "fleet.json"
    for n in range(1, 40):
        cloud = Cloud(Settings(config=tmp_path / f"config-{n}"), tell=lambda text: None)
        old = {"flavors": {"old": SMALL}, "aggregates": {"old": {}}, "images": {"b": spec, "c": spec}}
        path.write_text(json.dumps({**EVERYTHING, **old}))
        work = prepared(cloud, path)
        work.carry_out(work.plan())
        (tmp_path / "b.raw").write_bytes(b"b" * 512)
        new = {"images": {"a": spec, "b": {**spec, "file": str(tmp_path / "b.raw")}}, "weighers": {}}
        path.write_text(json.dumps({**EVERYTHING, **new, "aggregates": {"new": {}}}))
        alive = cloud.world
        cloud.__dict__["world"] = replace(alive, db=Mortal(alive.db, n, after=after))
        try:
            work = prepared(cloud, path)
            work.carry_out(work.plan())
            died = False
        except Killed:
            died = True
        cloud.__dict__["world"] = alive
        work = prepared(cloud, path)
        assert {outcome.result for outcome in work.carry_out(work.plan())} <= {"done"}
        assert prepared(cloud, path).plan() == []
        cloud.close()
        if not died:
            break
    assert not died and n > 5


def test_what_came_between_is_seen(stocked: Command, db: SqliteDatabase, tmp_path: Path) -> None:
    data = today(stocked)
    data["networks"]["dmz"] = {"cidr": "198.51.100.0/24", "bridge": "br1"}
    path = tmp_path / "fleet.yaml"
    path.write_text(dumped(data))
    cloud = Cloud(Settings(config=stocked.config), tell=lambda text: None)
    first = prepared(cloud, path)
    first.carry_out(first.plan())
    data["networks"]["dmz"]["cidr"] = "203.0.113.0/24"
    data["flavors"]["small"]["vcpus"] = 3
    path.write_text(dumped(data))
    late = prepared(cloud, path)
    changes = late.plan()
    made = fleet.port(fleet.uuid(2), ip="198.51.100.9")
    with db.writing() as tx:
        instances.add(tx, fleet.instance(2, host="kvm1"))
        (dmz,) = [network for network in catalogue.networks(tx) if network.name == "dmz"]
        instances.add_port(tx, fleet.uuid(2), dmz.id, made)
    outcomes = late.carry_out(changes)
    assert [(one.change.name, one.result, one.code) for one in outcomes] == [
        ("small", "failed", 5),
        ("dmz", "failed", 5),
    ]
    assert "network dmz: its cidr cannot change: 1 addresses are in use" in str(outcomes[0].error)
    with db.reading() as tx:
        assert catalogue.flavor(tx, "small").vcpus == 1
        assert catalogue.network(tx, "dmz").cidr == "198.51.100.0/24"
    cloud.close()


# --- export ---


def test_export_to_files(stocked: Command, tmp_path: Path) -> None:
    stocked.ok("inventory", "export", str(tmp_path / "out"))
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["flavors.yaml", "hosts.yaml", "images.yaml", "networks.yaml"]
    assert stocked.json("inventory", "diff", str(tmp_path / "out")) == []
    words = ("inventory", "export", str(tmp_path / "out"))
    refused(stocked, *words, code=5, says="flavors.yaml is there already", hint="--force")
    stocked.ok("flavor", "create", "big", "--vcpus", "8", "--memory", "64", "--disk", "0")
    stocked.ok(*words, "--force")
    assert "big" in (tmp_path / "out" / "flavors.yaml").read_text()
    assert stocked.json("inventory", "diff", str(tmp_path / "out")) == []
    stocked.environment["NOVACTL_INVENTORY"] = str(tmp_path / "out")
    assert stocked.json("inventory", "diff") == []
    (tmp_path / "file").write_text("")
    refused(stocked, "inventory", "export", str(tmp_path / "file"), code=1, says="file: file exists")


def test_the_shipped_example(novactl: Command) -> None:
    """Its image is not shipped: that alone is refused."""
    found = novactl("inventory", "diff", str(EXAMPLE), "-o", "json")
    assert found.code == 10, found.err
    assert [row["name"] for row in found.json if row["refused"]] == ["debian"]
    assert {row["change"] for row in found.json} == {"create", "update"}


def test_no_inventory_yet(novactl: Command) -> None:
    where = novactl.config / "inventory"
    refused(novactl, "inventory", "diff", code=2, says=f"{where}: there is no inventory", hint="export DIR")
    refused(novactl, "inventory", "apply", "--identity", "/none", code=2, says="identity /none is not a file")


WORDS = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), max_size=20
) | st.sampled_from(
    ["1e3", "on", "~", "0x1f", "010", "20:00", "1_0", "-", "? a", "# b", " c ", ".5", "=", "<<"]
)
KEYS = st.sampled_from(["tier", "on", "no", "1e3", "0", "7", "a.b:c-d", "null_", "1.5e3", "y"])
LABELS = st.dictionaries(KEYS, WORDS, max_size=4)
NAMES = st.lists(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
    | st.sampled_from(["1e3", "on", "0", "1.0"]),
    unique=True,
    max_size=4,
)
SMALLS, SOME = st.integers(1, 9), st.sampled_from
RATIOS = st.floats(0.0001, 1000, allow_nan=False) | st.integers(1, 1000)


@st.composite
def fleets(draw: Any) -> Callable[[Any], None]:
    """Fills a database with a fleet that its commands could have made."""
    named = draw(NAMES)
    made = [
        fleet.host(
            name,
            host_keys=(HOST_KEY,),
            address=f"h{number}.example",
            port=draw(st.integers(1, 65535)),
            jump=draw(st.sampled_from([None, *named[:number]])),
            labels=draw(LABELS),
            zone=draw(st.sampled_from(["nova", "1e3", "on"])),
            enabled=(enabled := draw(st.booleans())),
            disabled_reason=None if enabled else draw(st.none() | WORDS),
            reserved_memory_mib=draw(st.integers(0, 9999)),
            cpu_ratio=float(draw(RATIOS)),
        )
        for number, name in enumerate(named)
    ]
    flavors = [
        fleet.flavor(
            name, vcpus=draw(st.integers(1, 9)), swap_mib=draw(st.integers(0, 9)), extra_specs=draw(LABELS)
        )
        for name in draw(NAMES)
    ]
    images = [
        fleet.image(name, properties=draw(LABELS), cmdline=draw(st.none() | WORDS), kernel_sha256="cd" * 32)
        for name in draw(NAMES)
    ]
    networks = [
        fleet.network(name, bridge=f"br{n}", gateway=draw(st.sampled_from([None, "192.0.2.1"])), mtu=1400)
        for n, name in enumerate(draw(NAMES))
    ]
    groups = [
        Aggregate(
            id=f"id-{name}",
            name=name,
            hosts=tuple(draw(st.sets(st.sampled_from(named)))),
            metadata=draw(LABELS),
        )
        for name in (draw(NAMES) if named else [])
    ]
    keys = [(draw(st.sampled_from(["default", "1e3"])), name) for name in draw(NAMES)]
    servers = [
        ServerGroup(
            id=name, name=name, project=draw(SOME(["default", "1e3"])), policy=draw(SOME(GroupPolicy))
        )
        for name in draw(NAMES)
    ]
    limited = [
        Project(
            name=name, description=draw(WORDS), limits=draw(st.dictionaries(SOME([*NOVA_LIMITS]), SMALLS))
        )
        for name in draw(NAMES)
    ]
    lasting = draw(
        SOME(
            [
                {"do": "keep-running"},
                {"do": "resize-confirm", "after": 5400},
                {"do": "shelve-offload", "after": 60},
            ]
        )
    )
    policy = {**lasting, "selector": ["on", "tier=dev"], "project": "1e3"}
    values = {
        "scheduler": draw(st.dictionaries(SOME(["host_subset_size", "max_io_ops_per_host"]), SMALLS)),
        "weighers": draw(st.dictionaries(st.sampled_from(["memory", "vcpus"]), st.floats(-1e6, 1e6))),
        "policies": [{"name": name, **policy, "timezone": "UTC"} for name in draw(NAMES)],
        "cron": {
            name: {
                "every": draw(st.none() | st.integers(10, 10**6)),
                "jitter": None,
                "enabled": draw(st.booleans()),
            }
            for name in draw(st.lists(st.sampled_from([task.name for task in TASKS]), unique=True))
        },
        "trusted_networks": draw(st.just({}) | st.just({"on": "2001:db8::/32"})),
        "default_network": networks[0].name if networks else None,
    }

    def fill(tx: Any) -> None:
        for host in made:
            hosts.add(tx, host)
        for flavor in flavors:
            catalogue.add_flavor(tx, flavor)
        for image in images:
            catalogue.add_image(tx, image)
        for network in networks:
            catalogue.add_network(tx, network)
        for group in groups:
            aggregates.create(tx, group)
        for server in servers:
            groups_.create(tx, server)
        for project, name in keys:
            key = parse_public_key(name, public("k"))
            catalogue.add_keypair(tx, project, Keypair(**{**vars(key), "name": name}))
        for one in limited:
            projects.create(tx, one)
        for name, value in values.items():
            kept.put(tx, name, value)

    return fill


@settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(fill=fleets())
def test_what_is_exported_differs_in_nothing(tmp_path_factory: Any, quick: Path, fill: Any) -> None:
    directory = tmp_path_factory.mktemp("export")
    db = scratch.database(quick / "one.db")
    try:
        with db.writing() as tx:
            fill(tx)
        with db.reading() as tx:
            text = dumped(export(State(tx)))
            (directory / "fleet.yaml").write_text(text)
            inventory = read(directory / "fleet.yaml")
            assert plan(State(tx), inventory, Content(inventory, None), Options(prune=True)) == [], text
    finally:
        db.close()


# --- the default network, and weighers ---


def test_boot_takes_the_default_network(stocked: Command, db: SqliteDatabase, write: Write) -> None:
    boot = ("boot", "x", "--flavor", "small", "--image", "tiny", "--dry-run")
    assert "no --network given: the instance has no NIC" in stocked.ok(*boot).err
    write({"default_network": "lan"})
    stocked.ok("inventory", "apply")
    ended = stocked.ok(*boot, "-o", "json")
    assert "no --network given: a NIC on the default network lan" in ended.err
    assert ended.json["changes"]["addresses"] == {"lan": "192.0.2.3"}
    none = stocked.ok(*boot, "--network", "none", "-o", "json")
    assert none.json["changes"]["addresses"] == {} and "default network" not in none.err
    write({"default_network": None})
    stocked.ok("inventory", "apply")
    assert "has no NIC" in stocked.ok(*boot).err


def test_weighers_decide_where_an_instance_goes(novactl: Command, db: SqliteDatabase, write: Write) -> None:
    fleet.furnish(db, hosts_=2)
    with db.writing() as tx:
        hosts.update(tx, "kvm2", memory_mib_used=1024)
    boot = ("boot", "x", "--flavor", "small", "--image", "tiny", "--dry-run", "-o", "json")
    assert novactl.json(*boot[:-2])["host"] == "kvm1"
    write({"weighers": {"memory": -1}})
    novactl.ok("inventory", "apply")
    assert novactl.json(*boot[:-2])["host"] == "kvm2"
    write({"weighers": {"memory": 0}})
    novactl.ok("inventory", "apply")
    assert novactl.json(*boot[:-2])["host"] == "kvm1"  # alike: by name


# --- aggregates ---


def test_aggregates(stocked: Command) -> None:
    made = stocked.json("aggregate", "create", "ssd", "--host", "kvm2", "--property", "disk=fast")
    assert (made["name"], made["hosts"], made["metadata"]) == ("ssd", ["kvm2"], {"disk": "fast"})
    assert stocked.json("aggregate", "add-host", "ssd", "kvm1", "kvm2")["hosts"] == ["kvm1", "kvm2"]
    changed = stocked.json("aggregate", "set", "ssd", "--property", "disk=", "--property", "a=b")
    assert changed["metadata"] == {"a": "b"} and stocked.json("aggregate", "show", "ssd") == changed
    assert stocked.json("host", "show", "kvm1")["aggregates"] == ["ssd"]
    refused(
        stocked, "aggregate", "delete", "ssd", code=5, says="has hosts: kvm1, kvm2", hint="remove-host ssd"
    )
    assert stocked.json("aggregate", "remove-host", "ssd", "kvm1")["hosts"] == ["kvm2"]
    refused(stocked, "aggregate", "remove-host", "ssd", "kvm1", code=4, says="kvm1 is not in aggregate ssd")
    refused(stocked, "aggregate", "create", "ssd", code=5, says="aggregate ssd exists already")
    refused(stocked, "aggregate", "create", "-x", code=2, says="")
    refused(stocked, "aggregate", "create", "x", "--host", "kvm9", code=4, says="host 'kvm9' does not exist")
    refused(
        stocked, "aggregate", "show", "sdd", code=4, says="'sdd' does not exist", hint="did you mean ssd?"
    )
    refused(stocked, "aggregate", "set", "ssd", code=2, says="nothing to set is given")
    stocked.ok("aggregate", "remove-host", "ssd", "kvm2")
    stocked.ok("aggregate", "delete", "ssd")
    assert stocked.json("aggregate", "list") == []


def test_nobody_is_told_of_instances(stocked: Command, db: SqliteDatabase) -> None:
    """An export holds no secret, and nothing of instances."""
    with db.writing() as tx:
        instances.update(tx, fleet.uuid(1), user_data="secret:x")
        tx.insert("secrets", id="x", owner=fleet.uuid(1), sealed="c2VhbGVk")
        hosts.update(tx, "kvm1", facts={"machine_id": "m" * 32})
    text = stocked.ok("inventory", "export").out
    assert not any(word in text for word in ("c2VhbGVk", "secret", "web1", "mmmm"))


def test_a_task_that_cron_does_not_have(novactl: Command, write: Write) -> None:
    write({"cron": {"prune": {"every": "1h"}}})
    ended = novactl("inventory", "diff", "-o", "json")
    assert ended.code == 2
    assert "there is no such task: leases, facts" in ended.error["message"]
    assert ended.error["targets"][0]["path"] == "cron.prune"
