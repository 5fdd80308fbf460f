"""resize and cold migrate on real hosts: a disk goes with its guest, or is back after a revert."""

from collections.abc import Callable

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, refused, unchanged

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny", "--network", "lan"]


@pytest.fixture(scope="module", autouse=True)
def flavors(_grounds: Grounds) -> None:
    _grounds.novactl.ok("flavor", "create", "mid", "--vcpus", "2", "--memory", "128", "--disk", "2")


def stopped(grounds: Grounds, name: str, host: str = "kvm1") -> str:
    """An instance that is off, with something of its own in its disk; its uuid."""
    novactl = grounds.novactl
    novactl.ok("boot", name, *TINY, "--host", host)
    novactl.ok("stop", name, "--force")
    uuid = str(novactl.json("show", name)["uuid"])
    path = f"{INSTANCES}/{uuid}/disk"
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 100M 8M", path]
    grounds.host(host).run(write).check_returncode()
    return uuid


def digest(grounds: Grounds, host: str, uuid: str) -> str:
    path = f"{INSTANCES}/{uuid}/disk"
    return grounds.host(host).run(["sha256sum", path]).stdout.split()[0]


def where(grounds: Grounds, name: str) -> tuple[str, str, str]:
    shown = grounds.novactl.json("show", name)
    return shown["status"], shown["host"], shown["flavor"]


def used(grounds: Grounds) -> dict[str, int]:
    return {host["name"]: host["disk_gib_used"] for host in grounds.novactl.json("host", "list")}


def no_trust(grounds: Grounds) -> None:
    look = "ls -A /var/lib/novactl/trust 2>/dev/null; grep ' novactl op-' /root/.ssh/authorized_keys"
    for host in grounds.fleet.hosts:
        assert host.run(["sh", "-c", look]).stdout == "", host.name
        assert host.run(["pgrep", "-af", "trust/op-"]).stdout == "", host.name


def test_migrate_keeps_the_disk_and_confirm_cleans(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, one = grounds.novactl, name()
    uuid = stopped(grounds, one)
    before = digest(grounds, "kvm1", uuid)
    novactl.ok("migrate", one, "--host", "kvm2")
    assert where(grounds, one) == ("VERIFY_RESIZE", "kvm2", "tiny")
    assert digest(grounds, "kvm2", uuid) == before
    assert grounds.files("kvm1") == [f"{uuid}_resize"] and grounds.domains("kvm1") == []
    assert used(grounds) == {"kvm1": 1, "kvm2": 1, "kvm3": 0}
    assert [f for f in novactl.json("audit") if f["severity"] != "info"] == []
    novactl.ok("resize-confirm", one)
    assert where(grounds, one) == ("SHUTOFF", "kvm2", "tiny")
    assert grounds.files("kvm1") == [] and used(grounds) == {"kvm1": 0, "kvm2": 1, "kvm3": 0}
    no_trust(grounds)


def test_migrate_and_revert(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, one = grounds.novactl, name()
    uuid = stopped(grounds, one)
    before = digest(grounds, "kvm1", uuid)
    novactl.ok("migrate", one, "--host", "kvm2")
    novactl.ok("resize-revert", one)
    assert where(grounds, one) == ("SHUTOFF", "kvm1", "tiny")
    assert digest(grounds, "kvm1", uuid) == before
    assert grounds.files("kvm2") == [] and used(grounds) == {"kvm1": 1, "kvm2": 0, "kvm3": 0}
    no_trust(grounds)


def test_resize_elsewhere_and_confirm(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, one = grounds.novactl, name()
    uuid = stopped(grounds, one)
    novactl.ok("resize", one, "--flavor", "mid", "--host", "kvm3")
    assert where(grounds, one) == ("VERIFY_RESIZE", "kvm3", "mid")
    novactl.ok("resize-confirm", one)
    assert where(grounds, one) == ("SHUTOFF", "kvm3", "mid")
    assert grounds.leftovers() == {"kvm3": [uuid, uuid]}
    assert used(grounds) == {"kvm1": 0, "kvm2": 0, "kvm3": 2}
    check = ["qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 100M 8M", f"{INSTANCES}/{uuid}/disk"]
    read = grounds.host("kvm3").run(check)
    assert read.returncode == 0 and "verification failed" not in read.stdout
    no_trust(grounds)


@pytest.mark.parametrize("which", ["kvm1", "kvm2"])
def test_an_older_openssl(grounds: Grounds, name: Callable[[], str], which: str) -> None:
    """One that does not know the command `mac`: the disk is compared by SHA-256."""
    novactl, one, host = grounds.novactl, name(), grounds.host(which)
    uuid = stopped(grounds, one)
    before = digest(grounds, "kvm1", uuid)
    put = """cat >/run/openssl; chmod 755 /run/openssl
        cp /usr/bin/openssl /run/openssl.now; mount --bind /run/openssl /usr/bin/openssl"""
    old = '#!/bin/sh\n[ "$1" != mac ] || exit 1\nexec /run/openssl.now "$@"\n'
    host.run(["sh", "-c", put], stdin=old).check_returncode()
    try:
        novactl.ok("migrate", one, "--host", "kvm2", "--confirm")
    finally:
        host.run(["umount", "/usr/bin/openssl"]).check_returncode()
    assert where(grounds, one) == ("SHUTOFF", "kvm2", "tiny")
    assert digest(grounds, "kvm2", uuid) == before


def test_resize_elsewhere_and_revert(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, one = grounds.novactl, name()
    uuid = stopped(grounds, one)
    before = digest(grounds, "kvm1", uuid)
    novactl.ok("start", one)
    novactl.ok("resize", one, "--flavor", "mid", "--host", "kvm3")
    assert where(grounds, one) == ("VERIFY_RESIZE", "kvm3", "mid")
    assert grounds.state("kvm3", uuid) == "running"
    novactl.ok("resize-revert", one)
    assert where(grounds, one) == ("ACTIVE", "kvm1", "tiny")
    assert grounds.state("kvm1", uuid) == "running" and grounds.files("kvm3") == []
    assert used(grounds) == {"kvm1": 1, "kvm2": 0, "kvm3": 0}
    novactl.ok("stop", one, "--force")
    assert before  # it ran since: what it wrote may differ, the pattern may not
    check = ["qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 100M 8M", f"{INSTANCES}/{uuid}/disk"]
    assert "verification failed" not in grounds.host("kvm1").run(check).stdout


def test_resize_here(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, one = grounds.novactl, name()
    stopped(grounds, one)
    novactl.ok("resize", one, "--flavor", "mid")
    assert where(grounds, one) == ("VERIFY_RESIZE", "kvm1", "mid") and used(grounds)["kvm1"] == 2
    novactl.ok("resize-revert", one)
    shown = novactl.json("show", one)
    assert (shown["status"], shown["vcpus"], shown["disk_gib"]) == ("SHUTOFF", 1, 2)  # disks never shrink
    novactl.ok("resize", one, "--flavor", "mid", "--confirm")
    assert where(grounds, one) == ("SHUTOFF", "kvm1", "mid")


def test_delete_while_it_waits(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, one = grounds.novactl, name()
    stopped(grounds, one)
    novactl.ok("migrate", one, "--host", "kvm2")
    novactl.ok("delete", one, "--yes")
    assert grounds.leftovers() == {} and set(used(grounds).values()) == {0}


def test_bad_input(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, one = grounds.novactl, name()
    stopped(grounds, one)
    with unchanged(grounds):
        refused(novactl, "migrate", one, "--host", "kvm1", code=5, says="is on kvm1 already")
        refused(novactl, "migrate", one, "--host", "nowhere", code=4, says="nowhere")
        refused(novactl, "resize", one, "--flavor", "none", code=4, says="none")
        refused(novactl, "resize", one, "--flavor", "tiny", code=5, says="already")
        refused(novactl, "resize-confirm", one, code=5, says="SHUTOFF")
        refused(novactl, "migrate", one, "--post-copy", code=2, says="--post-copy goes with --live")


AS_A_GUEST = """
import subprocess, sys
disk, base, made = sys.argv[1:]
size = 1 << 16
with open(base, "rb") as old, open(made, "rb") as new:
    at = 0
    while data := new.read(size):
        if data != old.read(size):
            open(made + ".piece", "wb").write(data)
            command = f"write -q -s {made}.piece {at} {len(data)}"
            subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, disk], check=True)
        at += len(data)
"""


def test_a_file_system_of_its_own_goes_too(grounds: Grounds, name: Callable[[], str]) -> None:
    """Of the ephemeral disk only what was written goes, cold and live: the empty file system under it is the
    same everywhere."""
    novactl, one = grounds.novactl, name()
    novactl.ok("boot", one, *TINY, "--host", "kvm1", "--ephemeral", "1", "--swap", "64")
    novactl.ok("stop", one, "--force")
    disk = f"{INSTANCES}/{novactl.json('show', one)['uuid']}/disk.local"
    base, made = f"{INSTANCES}/_base/ephemeral_1_ext4_v2", "/var/lib/novactl/made"
    kvm1 = grounds.host("kvm1")
    for words in (
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, made],
        ["debugfs", "-w", "-R", "set_super_value mnt_count 7", made],  # all that a mount writes
        ["python3", "-c", AS_A_GUEST, disk, base, made],
    ):
        kvm1.run(words).check_returncode()
    for host, verb in (("kvm2", ["migrate", "--confirm"]), ("kvm1", ["migrate", "--live"])):
        if "--live" in verb:
            novactl.ok("start", one)
        novactl.ok(verb[0], one, *verb[1:], "--host", host)
        if "--live" in verb:
            novactl.ok("stop", one, "--force")
        there = grounds.host(host)
        there.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, made]).check_returncode()
        looked = there.run(["e2fsck", "-fn", made])
        assert looked.returncode == 0, looked.stdout
        assert "Mount count:              7\n" in there.run(["dumpe2fs", "-h", made]).stdout
        there.run(["sh", "-c", f"rm -f {made}*"]).check_returncode()
