"""db rebuild from two real hosts whose guests run on: the same as before, but for what is said to be lost."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from tests.lab.conftest import Grounds, enrol
from tests.lab.support import INSTANCES, console, console_until, nothing_left, refused, wait_until

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny"]
SCRIPT = "#!/bin/sh\necho user-data ran\n(while :; do echo still here; sleep 1; done) >/dev/console &\n"
LISTS = [
    ["list"],
    ["host", "list"],
    ["flavor", "list"],
    ["image", "list"],
    ["keypair", "list"],
    ["network", "list"],
]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Grounds]:
    """A fleet of its own: its database is lost."""
    name = f"r{os.getpid() % 1000000}"
    lab.down(name)
    try:
        yield enrol(lab.up(name, 2), tmp_path / "novactl")
    finally:
        lab.down(name)


def seen(grounds: Grounds) -> dict[str, Any]:
    """All that a user can ask for and gets back."""
    novactl = grounds.novactl
    found = {" ".join(words): novactl.json(*words) for words in LISTS}
    found["show"] = [novactl.json("show", one["uuid"]) for one in found["list"]]
    return found


def qemus(grounds: Grounds, name: str) -> set[str]:
    """Pids of the guests of a host."""
    return set(grounds.host(name).run(["pgrep", "-f", "qemu-system.*guest="]).stdout.split())


def lose(grounds: Grounds) -> None:
    for file in grounds.novactl.config.glob("novactl.db*"):
        file.unlink()


def test_a_lost_database_comes_back_while_guests_run(two: Grounds):
    novactl, first = two.novactl, two.host("kvm1")
    key = novactl.config / "id.pub"
    key.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGsTyYGh0bB7cNXKBgCcyzWJ1AL7UXIbCWYlh44S1ZoH me\n")
    novactl.ok("keypair", "add", "me", "--public-key", str(key))
    novactl.ok("network", "create", "dmz", "--cidr", "198.51.100.0/24", "--bridge", "br0")
    data = ["--user-data", "-", "--key", "me", "--meta", "role=web", "--tag", "blue", "--network", "lan"]
    web = novactl.json("boot", "web", *TINY, *data, "--swap", "16", "--host", "kvm1", input=SCRIPT)
    more = [novactl.json("boot", f"more{n}", *TINY, "--network", "dmz", "--host", f"kvm{n}") for n in (1, 2)]
    gone = novactl.json("boot", "gone", *TINY, "--host", "kvm2")
    console_until(two, web, "still here", 90)
    console_until(two, more[1], "tiny: ready")
    novactl.ok("stop", "more1")
    novactl.ok("delete", "gone", "--yes")
    novactl.ok("start", "web", "more2")  # unchanged
    before, pids = seen(two), {name: qemus(two, name) for name in ("kvm1", "kvm2")}
    assert {name: len(of) for name, of in pids.items()} == {"kvm1": 1, "kvm2": 1}
    lose(two)

    words = ["db", "rebuild", "--from", first.address, "--identity", str(two.fleet.identity)]
    both = [*words, "--fingerprint", first.fingerprint, "--from", "kvm2", "--yes"]
    refused(novactl, *words, "--from", "kvm2", code=8, says="is not pinned yet")
    refused(novactl, *words, "--fingerprint", "SHA256:x", code=7, says="not SHA256:x")
    refused(novactl, *both[:-1], code=8, says="not confirmed: add ", hint="--yes")
    assert novactl.json(*both, "--dry-run")["instances"] == 3
    assert list(novactl.config.glob("novactl.db*")) == []
    made = novactl.json(*both)
    assert made["missing"] == [], made
    counts = {key: made[key] for key in ("hosts", "flavors", "images", "keypairs", "networks", "instances")}
    assert counts == {"hosts": 2, "flavors": 1, "images": 2, "keypairs": 1, "networks": 2, "instances": 3}
    assert made["secrets"] == 1

    assert seen(two) == before
    assert novactl("show", gone["uuid"]).code == 4 and novactl.json("list", "--deleted") == []
    assert {name: qemus(two, name) for name in pids} == pids
    length = len(console(two, web))
    wait_until(lambda: len(console(two, web)) > length, 20, "the guest's next words")
    again = novactl.json(*both)
    assert {again[key] for key in counts} == {0} and seen(two) == before

    novactl.ok("stop", "web", "--force")
    novactl.ok("start", "web", "more1")
    console_until(two, web, "tiny: boot count 2", 90)
    drive = f"{INSTANCES}/{web['uuid']}/disk.config"
    assert first.run(["grep", "-q", "user-data ran", drive]).returncode == 0  # its secret was opened
    fresh = novactl.json("boot", "fresh", *TINY, "--network", "lan")
    assert fresh["addresses"] != web["addresses"]
    for host in ("kvm1", "kvm2"):
        novactl.ok("host", "check", host)
    novactl.ok("delete", "web", "more1", "more2", "fresh", "--yes")
    nothing_left(two)


@pytest.mark.long
def test_one_host_and_then_the_other_on_another_machine(two: Grounds, tmp_path: Path):
    """Nothing of the old operator's configuration is there but the key of user-data."""
    novactl, hosts = two.novactl, {name: two.host(name) for name in ("kvm1", "kvm2")}
    for name in hosts:
        novactl.ok("boot", f"on-{name}", *TINY, "--host", name)
    novactl.ok("suspend", "on-kvm2")
    novactl.ok("set", "on-kvm2", "--tag", "asleep")
    novactl.ok("lock", "on-kvm1")
    before = seen(two)
    assert {(one["status"], one["locked"]) for one in before["show"]} == {
        ("ACTIVE", True),
        ("SUSPENDED", False),
    }
    lose(two)
    shutil.rmtree(novactl.config / "ssh")
    shutil.move(novactl.config / "images", tmp_path / "images")
    known = ["--identity", str(two.fleet.identity), "--yes"]
    first = ["db", "rebuild", "--from", f"root@{hosts['kvm2'].address}:22", "--accept-host-key", *known]
    half = novactl.json(*first)
    kinds = {(one["kind"], one["name"]) for one in half["missing"]}
    assert ("host", "kvm1") in kinds and ("image file", "tiny") in kinds
    assert [one["name"] for one in novactl.json("list")] == ["on-kvm2"]
    hosts["kvm1"].cut()
    try:
        refused(novactl, "db", "rebuild", "--from", "kvm1", *known, code=7, says="kvm1")
        assert [one["name"] for one in novactl.json("list")] == ["on-kvm2"]
    finally:
        hosts["kvm1"].mend()
    whole = novactl.json("db", "rebuild", "--from", "kvm1", *known)
    assert {one["kind"] for one in whole["missing"]} == {"image file"}
    shutil.move(tmp_path / "images", novactl.config / "images")
    assert seen(two) == before

    other = two.add_words("kvm1")
    refused(novactl, "--db", str(tmp_path / "none.db"), "list", code=9, says="does not exist")
    novactl.ok("--db", str(tmp_path / "other.db"), "db", "init")
    novactl.ok(
        "--db",
        str(tmp_path / "other.db"),
        "flavor",
        "create",
        "x",
        "--vcpus",
        "1",
        "--memory",
        "1",
        "--disk",
        "1",
    )
    words = ["--db", str(tmp_path / "other.db"), "db", "rebuild", "--from", hosts["kvm1"].address, *known]
    refused(novactl, *words, "--fingerprint", other[-1], code=5, says="the database is of fleet")
    novactl.ok("resume", "on-kvm2")  # its memory, and what saved it, are on its host
    novactl.ok("unlock", "on-kvm1")
    novactl.ok("delete", "on-kvm1", "on-kvm2", "--yes")
    nothing_left(two)


def test_a_move_that_waits_comes_back(two: Grounds) -> None:
    """With what it holds on both hosts: it is reverted, another one confirmed."""
    novactl, first = two.novactl, two.host("kvm1")
    for name in ("back", "stays"):
        novactl.ok("boot", name, *TINY, "--host", "kvm1")
        novactl.ok("migrate", name, "--host", "kvm2")
    before = seen(two)
    assert {one["status"] for one in before["show"]} == {"VERIFY_RESIZE"}
    lose(two)
    words = ["db", "rebuild", "--from", first.address, "--fingerprint", first.fingerprint, "--from", "kvm2"]
    made = novactl.json(*words, "--identity", str(two.fleet.identity), "--yes")
    assert made["missing"] == [] and seen(two) == before
    novactl.ok("resize-revert", "back")
    novactl.ok("resize-confirm", "stays")
    now = {one["name"]: (one["status"], one["host"]) for one in novactl.json("list")}
    assert now == {"back": ("ACTIVE", "kvm1"), "stays": ("ACTIVE", "kvm2")}
    assert [one for one in novactl.json("audit") if one["severity"] != "info"] == []
    novactl.ok("delete", "back", "stays", "--yes")
    nothing_left(two)
