"""shelve and unshelve on real guests: what was written is there again, on whatever host."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, Running, gate, refused, unchanged
from tests.lab.test_rescue import booted, told

pytestmark = pytest.mark.lab


def used(grounds: Grounds) -> dict[str, int]:
    return {host["name"]: host["vcpus_used"] for host in grounds.novactl.json("host", "list")}


def images(grounds: Grounds) -> dict[str, Any]:
    return {one["name"]: one for one in grounds.novactl.json("image", "list")}


def stored(grounds: Grounds) -> set[str]:
    found = (path for path in (grounds.novactl.config / "images").rglob("*") if path.is_file())
    return {path.name for path in found if path.parent.name != ".users"}


def worries(grounds: Grounds) -> list[Any]:
    return [found for found in grounds.novactl.json("audit") if found["severity"] != "info"]


def base_of(grounds: Grounds, host: str, uuid: str) -> str:
    info = ["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", f"{INSTANCES}/{uuid}/disk"]
    return str(json.loads(grounds.host(host).run(info).stdout)["backing-filename"]).rpartition("/")[2]


def test_what_was_written_is_there_on_another_host(
    grounds: Grounds, name: Callable[[], str], tmp_path: Path
) -> None:
    novactl, web = grounds.novactl, name()
    one = booted(grounds, web, tmp_path, "--meta", "role=web")
    uuid, before = one["uuid"], stored(grounds)
    (row,) = novactl.json("shelve", web)
    assert (row["result"], row["instance"]["status"], row["instance"]["host"]) == ("done", "SHELVED", "kvm1")
    assert grounds.state("kvm1", uuid) == "shut off" and used(grounds)["kvm1"] == 1 and worries(grounds) == []
    assert images(grounds)[f"{web}-shelved"]["properties"]["image_type"] == "shelved"
    for verb in ("start", "stop", "reboot", "shelve", "rescue"):
        refused(novactl, verb, web, code=5, says="SHELVED")
    refused(novactl, "unshelve", web, "--host", "kvm2", code=5, says=f"{web}: is on kvm1")
    (row,) = novactl.json("shelve", web, "--offload")
    assert (row["instance"]["status"], row["instance"]["host"]) == ("SHELVED_OFFLOADED", None)
    assert row["instance"]["addresses"] == one["addresses"]
    assert grounds.leftovers() == {} and set(used(grounds).values()) == {0} and worries(grounds) == []
    with unchanged(grounds):
        refused(novactl, "shelve", web, code=5, says="SHELVED_OFFLOADED")
        refused(novactl, "start", web, code=5, says="is on no host")
        refused(novactl, "unshelve", web, "--zone", "mars", code=5, says="mars")
    novactl.ok("set", web, "--tag", "away")
    (row,) = novactl.json("unshelve", web, "--host", "kvm2")
    back = row["instance"]
    assert (back["status"], back["host"], back["image"]) == ("ACTIVE", "kvm2", "tiny")
    kept = ("uuid", "addresses", "flavor", "metadata", "key_name", "created_at")
    assert {key: back[key] for key in kept} == {key: one[key] for key in kept}
    said = told(grounds, back, 1)
    assert "tiny: boot count 2" in said and f" {one['addresses']['lan'][0]['ip']}/" in said
    assert f"{web}-shelved" not in images(grounds) and worries(grounds) == []
    # its disk's base is what was kept, which stays in the store as long as the instance needs it
    (new,) = stored(grounds) - before
    assert base_of(grounds, "kvm2", uuid) == new
    novactl.ok("migrate", web, "--host", "kvm3", "--confirm")
    moved = novactl.json("show", web)
    assert "tiny: boot count 3" in told(grounds, moved, 1)  # its console is new there
    assert base_of(grounds, "kvm3", uuid) == new
    novactl.ok("delete", web, "--yes")
    novactl.ok("image", "list")
    assert grounds.leftovers() == {}


def test_where_it_is_and_from_other_states(grounds: Grounds, name: Callable[[], str], tmp_path: Path) -> None:
    """Paused and suspended ones lose their memory only; an image that somebody else deleted is not missed."""
    novactl, web, other = grounds.novactl, name(), name()
    one, two = booted(grounds, web, tmp_path), booted(grounds, other, tmp_path)
    before = stored(grounds)
    novactl.ok("pause", web)
    novactl.ok("suspend", other)
    assert [row["instance"]["status"] for row in novactl.json("shelve", web, other)] == ["SHELVED"] * 2
    for shelved in (one, two):
        assert grounds.state("kvm1", shelved["uuid"]) == "shut off"
    assert (
        grounds.host("kvm1").run(["virsh", "-q", "list", "--with-managed-save", "--all"]).stdout.strip() == ""
    )
    novactl.ok("image", "delete", f"{other}-shelved", "--yes")
    rows = novactl.json("unshelve", web, other)
    assert [row["instance"]["status"] for row in rows] == ["ACTIVE"] * 2
    for shelved in (one, two):
        assert "tiny: boot count 2" in told(grounds, shelved, 2)
    assert stored(grounds) == before and worries(grounds) == []


def test_killed_and_deleted(grounds: Grounds, name: Callable[[], str], tmp_path: Path) -> None:
    """What was being made of it goes; so does what was kept of one that is on no host."""
    novactl, web, other = grounds.novactl, name(), name()
    booted(grounds, web, tmp_path)
    booted(grounds, other, tmp_path)
    before = stored(grounds)
    with gate(grounds.host("kvm1"), "qemu-img", "convert") as held:
        running = Running(novactl, "shelve", web, "--offload")
        held.reached(running)
        running.process.kill()
        running.process.wait()
    novactl.ok("op", "rollback", novactl.json("op", "list", "--active")[0]["id"])
    assert novactl.json("show", web)["status"] == "ACTIVE"
    assert f"{web}-shelved" not in images(grounds) and stored(grounds) == before
    novactl.ok("shelve", web, other, "--offload")
    novactl.ok("delete", web, "--yes")
    assert f"{web}-shelved" not in images(grounds) and f"{other}-shelved" in images(grounds)
    novactl.ok("delete", other, "--yes")
    assert stored(grounds) == before and grounds.leftovers() == {}
