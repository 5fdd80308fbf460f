"""A host that fails in the middle of boot: undone there, and the next one is taken."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl import lab
from novactl.lab import guests
from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    MIB,
    Running,
    gate,
    in_records,
    last,
    nothing_left,
    on_host,
    refused,
    step,
    unchanged,
    wait_until,
)
from tests.support.command import Command

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny"]
DEAF = ["--flavor", "tiny", "--image", "deaf"]
BASE = f"{INSTANCES}/_base"


@pytest.fixture
def storage(grounds: Grounds, name) -> Iterator[str]:
    """A network whose bridge only kvm2 and kvm3 have: kvm1, first in the order, has not."""
    network, novactl = name(), grounds.novactl
    for host in ("kvm2", "kvm3"):
        grounds.host(host).run(["ip", "link", "add", "br7", "type", "bridge"]).check_returncode()
        grounds.host(host).run(["ip", "link", "set", "br7", "up"]).check_returncode()
    novactl.ok("network", "create", network, "--cidr", "198.51.100.0/24", "--bridge", "br7")
    yield network
    for left in novactl.ok("list", "-o", "name").out.split():
        novactl.ok("delete", left, "--yes")
    novactl.ok("network", "delete", network, "--yes")
    for host in ("kvm2", "kvm3"):
        grounds.host(host).run(["ip", "link", "delete", "br7"])


def test_the_next_host_is_taken_and_it_is_said(grounds: Grounds, name, storage):
    novactl, web = grounds.novactl, name()
    boot = novactl("boot", web, *DEAF, "--network", storage, "-o", "json")
    assert boot.code == 0 and boot.json["host"] in ("kvm2", "kvm3"), boot.err
    assert f"kvm1: has no bridge br7; trying {boot.json['host']}" in boot.err
    done = last(novactl, web)
    assert done["attempts"] == 2 and done["state"] == "done"
    first, second = ([s for s in done["steps"] if s["attempt"] == n] for n in (1, 2))
    assert {s["host"] for s in first} == {"kvm1", None}
    assert "no bridge br7" in step({"steps": first}, "check-host")["error"]
    assert {s["state"] for s in first} <= {"undone", "pending"} and {s["state"] for s in second} == {"done"}
    used = {h["name"]: h["vcpus_used"] for h in novactl.json("host", "list")}
    assert used == {**dict.fromkeys(used, 0), boot.json["host"]: 1}
    assert grounds.leftovers().keys() == {boot.json["host"]}
    novactl.ok("delete", web, "--yes")
    nothing_left(grounds)


def test_the_host_asked_for_is_the_only_one_tried(grounds: Grounds, name, storage):
    novactl, web = grounds.novactl, name()
    words = ["boot", web, *DEAF, "--network", storage, "--host", "kvm1"]
    with unchanged(grounds):
        failed = refused(novactl, *words, code=1, says="kvm1: has no bridge br7")
        assert "trying" not in failed.err
        assert failed.error["operation"] == last(novactl, web)["id"]
    (gone,) = [i for i in novactl.json("list", "--deleted") if i["name"] == web]
    assert gone["status"] == "DELETED" and "no bridge br7" in gone["fault"]["message"]
    refused(novactl, "delete", gone["uuid"], "--yes", code=4, says="does not exist")
    (event,) = novactl.json("event", "list", gone["uuid"])
    assert (event["action"], event["result"]) == ("boot", "undone")
    novactl.ok("boot", web, *DEAF)  # the name is free at once
    novactl.ok("delete", web, "--yes")


def test_a_dead_libvirtd(grounds: Grounds, name):
    novactl, web = grounds.novactl, name()
    grounds.host("kvm1").kill_libvirtd()
    try:
        with unchanged(grounds):
            only = ["boot", web, *DEAF, "--host", "kvm1"]
            refused(novactl, *only, code=1, says="libvirt", hint="is libvirtd")
        other = novactl("boot", f"{web}-2", *DEAF, "-o", "json")  # where a boot has failed comes last
        assert (other.code, other.json["host"], "trying" in other.err) == (0, "kvm2", False)
        novactl.ok("delete", f"{web}-2", "--yes")
        novactl.ok("host", "set", "kvm1", "--enable")  # which forgets it
        boot = novactl("boot", web, *DEAF, "-o", "json")
        assert boot.code == 0 and "kvm1: " in boot.err and f"; trying {boot.json['host']}" in boot.err
        novactl.ok("delete", web, "--yes")
    finally:
        grounds.host("kvm1").start_libvirtd()
    nothing_left(grounds)


def test_a_guest_that_dies_at_start_takes_three_hosts_with_it(grounds: Grounds, name, tmp_path):
    novactl, bad, kernel = grounds.novactl, name(), tmp_path / "kernel"
    kernel.write_bytes(os.urandom(600))
    disk = novactl.config / "images" / novactl.json("image", "show", "tiny")["sha256"]
    novactl.ok("image", "add", bad, "--file", str(disk), "--format", "raw", "--kernel", str(kernel))
    with unchanged(grounds):
        words = ["boot", bad, "--flavor", "tiny", "--image", bad, "--network", "lan", "--swap", "16"]
        ended = refused(novactl, *words, code=1, says="the guest does not start: ")
        message = ended.error["message"]
        assert "internal error: " in message and message.endswith("qemu: invalid kernel header"), message
        assert ended.err.count("; trying ") == 2
    done = last(novactl, bad)
    assert (done["attempts"], done["state"]) == (3, "undone")
    assert {s["host"] for s in done["steps"] if s["name"] == "start-domain"} == {"kvm1", "kvm2", "kvm3"}
    novactl.ok("image", "delete", bad, "--yes")
    nothing_left(grounds)


# --- a disk that is full, in a lab of its own ---

SIZE = 48 * MIB
RANDOM = ["--flavor", "tiny", "--image", "random"]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Iterator[Grounds]:
    """Two hosts with little more than 1 GiB for instances; an image of 48 MiB, and the tiny disk alone."""
    name, directory = f"s{os.getpid() % 1000000}", tmp_path_factory.mktemp("small")
    lab.down(name)
    try:
        fleet = lab.up(name, 2, instances_mib=1100)
        grounds = Grounds(fleet, Command(directory / "config"))
        for host in fleet.hosts:
            grounds.novactl.ok(*grounds.add_words(host.name))
            grounds.novactl.ok("host", "set", host.name, "--disk-ratio", "8")
        (directory / "random").write_bytes(os.urandom(SIZE))
        for image, disk in (("random", directory / "random"), ("bare", guests.tiny().disk)):
            grounds.novactl.ok("image", "add", image, "--file", str(disk), "--format", "raw")
        grounds.novactl.ok("flavor", "create", "tiny", "--vcpus", "1", "--memory", "96", "--disk", "0")
        yield grounds
    finally:
        lab.down(name)


def fill(host: lab.LabHost, leave_kib: int) -> None:
    """Take all of the host's instance disk but so much."""
    free = int(host.run(["stat", "-f", "-c", "%a", INSTANCES]).stdout) * 4
    take = ["fallocate", "-l", f"{free - leave_kib}KiB", "/var/lib/novactl/filler"]
    host.run(take).check_returncode()


@pytest.fixture
def fills(small: Grounds) -> Iterator[Grounds]:
    yield small
    for host in small.fleet.hosts:
        host.run(["rm", "-f", "/var/lib/novactl/filler"])
    for left in small.novactl.json("list"):
        small.novactl.ok("delete", left["name"], "--yes")
    nothing_left(small)


def test_a_full_disk_is_seen_before_anything_is_sent(fills: Grounds, name):
    novactl, web = fills.novactl, name()
    fill(fills.host("kvm1"), 20 * 1024)
    boot = novactl("boot", web, "--flavor", "tiny", "--image", "bare", "-o", "json")
    assert boot.code == 0 and boot.json["host"] == "kvm2", boot.err
    assert f"MiB free on {INSTANCES}" in boot.err and "trying kvm2" in boot.err
    fill(fills.host("kvm2"), 20 * 1024)
    with unchanged(fills):
        failed = refused(novactl, "boot", name(), *RANDOM, code=1, says="needed")
        assert failed.err.count("; trying ") == 1 and "free some space" in failed.error["hint"]


def test_a_disk_that_fills_in_the_transfer(fills: Grounds, name):
    novactl, host, web = fills.novactl, fills.host("kvm1"), name()
    sha256 = novactl.json("image", "show", "random")["sha256"]
    part = f"{BASE}/.{sha256}.part"
    with unchanged(fills), gate(host, "dd", f"{BASE}/.{sha256}") as still:
        boot = Running(novactl, "boot", web, *RANDOM, "--host", "kvm1")
        still.reached(boot)
        fill(host, 8 * 1024)
        still.open()
        assert boot.end() == 1
        assert "kvm1: " in boot.said and f"no space left on {BASE}" in boot.said, boot.said
        assert "hint: free some space there" in boot.said
    assert host.run(["test", "-e", f"{BASE}/{sha256}"]).returncode == 1
    host.run(["rm", "/var/lib/novactl/filler"])
    novactl.ok("boot", web, *RANDOM, "--host", "kvm1")
    assert host.run(["sha256sum", f"{BASE}/{sha256}"]).stdout.split()[0] == sha256
    assert host.run(["test", "-e", part]).returncode == 1
    novactl.ok("delete", web, "--yes")
    host.run(["sh", "-c", f"rm {BASE}/{sha256}*"])


def test_a_disk_that_fills_before_the_overlay(fills: Grounds, name):
    novactl, host, web = fills.novactl, fills.host("kvm2"), name()
    with unchanged(fills), gate(host, "qemu-img", " create ") as still:
        boot = Running(novactl, "boot", web, "--flavor", "tiny", "--image", "bare", "--host", "kvm2")
        still.reached(boot)
        fill(host, 64)
        still.open()
        assert boot.end() == 1
        assert "no space left on" in boot.said and "hint: free some space there" in boot.said, boot.said
    assert on_host(host)["files"] == []


def test_files_of_a_failed_boot_are_not_in_the_way(small: Grounds):
    """After all of the above nothing is in the records either."""
    found = in_records(small.novactl)
    assert found["instances"] == found["holds"] == found["active"] == found["locks"] == found["secrets"] == []
    wait_until(lambda: all(on_host(host)["taps"] == [] for host in small.fleet.hosts), 5, "taps to go")
    assert Path(small.novactl.config, "images/.incoming").is_dir()
