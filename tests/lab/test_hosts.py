"""Hosts: enrolled once, known by their keys, refused when they are another's, used as far as they may be."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from novactl.lab import guests
from novactl.lab.disk import fingerprint, host_key
from tests.lab.conftest import Grounds
from tests.lab.support import on_host, refused, unchanged, wait_until
from tests.support.command import Command

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny"]
FOREIGN = """
<domain type='qemu'>
  <name>theirs</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""
MAKE_USER = """set -e
useradd -M -d /run/nosudo -s /bin/sh nosudo
usermod -p '*' nosudo
mkdir -p /run/nosudo/.ssh
cp /root/.ssh/authorized_keys /run/nosudo/.ssh
chown -R nosudo /run/nosudo
"""


# --- enrolling, in a lab of its own ---


@pytest.fixture(scope="module")
def fleet() -> Iterator[lab.Fleet]:
    name = f"h{os.getpid() % 1000000}"
    lab.down(name)
    try:
        yield lab.up(name, 2)
    finally:
        lab.down(name)


@pytest.fixture
def novactl(fleet, tmp_path) -> Iterator[Command]:
    """A fleet of its own that has none of the hosts; afterwards they are nobody's again."""
    command = Command(tmp_path / "config")
    yield command
    for host in fleet.hosts:
        if not host.alive():
            host.start()
        host.run(["sh", "-c", "rm -rf /var/lib/novactl/*"])


def add(fleet: lab.Fleet, name: str, *words: str, key: bool = True) -> list[str]:
    """The words of a good `host add`; `key=False` leaves the fingerprint out."""
    host = fleet.host(name)
    given = ["--identity", str(fleet.identity), *(["--fingerprint", host.fingerprint] if key else [])]
    return ["host", "add", name, "--address", host.address, *given, *words]


def add_tiny(novactl: Command) -> None:
    """What a boot needs: a disk and a flavor; without a kernel the guest only spins."""
    novactl.ok("image", "add", "tiny", "--file", str(guests.tiny().disk), "--format", "raw")
    novactl.ok("flavor", "create", "tiny", "--vcpus", "1", "--memory", "96", "--disk", "1")


def no_traces(fleet: lab.Fleet, novactl: Command) -> None:
    """No host enrolled: not in the inventory, not in the ssh files, not on the hosts themselves."""
    assert novactl.json("host", "list") == []
    written = [path for path in (novactl.config / "ssh").rglob("*") if path.is_file()]
    assert [path for path in written if "kvm" in path.read_text()] == []
    for host in fleet.hosts:
        assert host.run(["ls", "-A", "/var/lib/novactl"]).stdout == ""


@pytest.fixture
def other_key(tmp_path) -> Path:
    path = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def test_adding_what_cannot_be_added_leaves_nothing(fleet, novactl, other_key):
    host = fleet.host("kvm1")
    unasked = add(fleet, "kvm1", key=False)
    asked = refused(novactl, *unasked, code=8, says=host.fingerprint, hint="--fingerprint")
    assert asked.error["type"] == "NeedsConfirmation"
    wrong = fleet.host("kvm2").fingerprint
    named = ["host", "add", "kvm1", "--address", host.address, "--fingerprint"]
    shown = f"shows host key {host.fingerprint}, not {wrong}"
    refused(novactl, *named, wrong, code=7, says=shown, hint="in between")
    named += [host.fingerprint, "--identity"]
    refused(novactl, *named, str(other_key), code=7, says="none of your keys", hint="--identity")
    refused(novactl, *named, f"{other_key}x", code=2, says="is not a file")
    refused(novactl, *add(fleet, "kvm1", "--port", "2222"), code=7, says="refused")
    nobody = host.address.rpartition(".")[0] + ".99"
    refused(novactl, "host", "add", "kvm1", "--address", nobody, "--accept-host-key", code=7, says=nobody)
    refused(novactl, *add(fleet, "kvm1", "--virt-type", "kvm"), code=5, says="not fit to be a hypervisor")
    host.kill_libvirtd()
    refused(novactl, *add(fleet, "kvm1"), code=5, says="libvirt", hint="is libvirtd (or virtqemud) running")
    host.start_libvirtd()
    host.run(["sh", "-c", MAKE_USER]).check_returncode()
    refused(novactl, *add(fleet, "kvm1", "--user", "nosudo"), code=7, says="sudo")
    no_traces(fleet, novactl)


def lasting(host: dict[str, Any]) -> dict[str, Any]:
    """All but what was measured anew: other tests take huge pages of the machine that all lab hosts are."""
    cells = [{key: cell[key] for key in cell.keys() - {"memory_mib"}} for cell in host["numa_cells"]]
    return {**host, "checked_at": None, "numa_cells": cells}


def test_adding_again_changes_nothing(fleet, novactl, other_key):
    first = novactl.json(*add(fleet, "kvm1", "--zone", "east", "--label", "rack=7"))
    assert (first["state"], first["virt_type"], first["zone"]) == ("up", "qemu", "east")
    assert first["labels"] == {"rack": "7"} and first["host_keys"] == [fleet.host("kvm1").host_key]
    assert first["libvirt_version"] and first["qemu_version"]
    same = novactl(*add(fleet, "kvm1", "--zone", "east", "--label", "rack=7"), "-o", "json")
    assert same.code == 0 and "unchanged" in same.err
    assert lasting(same.json) == lasting(first)

    address, other = fleet.host("kvm1").address, fleet.host("kvm2")
    again = ["host", "add", "kvm1", "--address"]
    refused(novactl, *again, other.address, code=5, says="exists already")
    refused(novactl, "host", "add", "kvmx", "--address", address, code=5, says="is host kvm1 already")
    refused(novactl, *again, address, "--fingerprint", other.fingerprint, code=7, says=other.fingerprint)
    refused(novactl, *again, address, "--identity", str(other_key), code=7, says="none of your keys")
    novactl.ok("host", "check", "kvm1")  # and the key that works is still the one in use
    mine = novactl.config / "ssh/identities.json"
    right = mine.read_text()
    mine.write_text(right.replace(str(fleet.identity), str(other_key)))
    checked = novactl("host", "check", "kvm1", "-o", "json")
    assert checked.code == 10 and "accepts none of your keys" in checked.json[0]["message"]
    mine.write_text(right)

    novactl.ok("host", "remove", "kvm1", "--yes")
    refused(novactl, "host", "show", "kvm1", code=4, says="does not exist")
    assert on_host(fleet.host("kvm1"))["fleet"] == []
    novactl.ok(*add(fleet, "kvm1"))
    refused(novactl, "host", "remove", "kvm1", code=8, says="not confirmed")


def control_path(novactl: Command) -> str:
    novactl.ok("host", "check", "kvm1")
    asked = ["ssh", "-F", str(novactl.config / "ssh/config"), "-G", "kvm1"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return next(line for line in told.splitlines() if line.startswith("controlpath "))


def test_a_host_of_another_fleet(fleet, novactl, tmp_path):
    theirs = Command(tmp_path / "theirs")
    theirs.ok(*add(fleet, "kvm1"))
    mark = theirs.json("db", "init")["fleet"]
    refused(novactl, *add(fleet, "kvm1"), code=5, says=f"belongs to fleet {mark}", hint="--takeover")
    assert novactl.json("host", "list") == [] and on_host(fleet.host("kvm1"))["fleet"] == [mark]
    theirs.ok("host", "check", "kvm1")

    novactl.ok(*add(fleet, "kvm1", "--takeover"))
    assert on_host(fleet.host("kvm1"))["fleet"] == [novactl.json("db", "init")["fleet"]]
    (row,) = [r for r in theirs.json("host", "check", "kvm1") if r["check"] == "fleet"]
    assert row["result"] == "warn" and "another fleet" in row["hint"]
    assert control_path(theirs) != control_path(novactl)  # one's open connection is of no use to the other
    add_tiny(theirs)
    refused(theirs, "boot", "x", *TINY, code=1, says="not enrolled in this fleet")
    assert theirs.json("op", "list", "--active") == [] and on_host(fleet.host("kvm1"))["files"] == []
    theirs.ok("host", "remove", "kvm1", "--yes")
    assert on_host(fleet.host("kvm1"))["fleet"] == [novactl.json("db", "init")["fleet"]]


def libvirt_over_ssh(novactl: Command, host: str) -> str:
    """What ssh said when virsh went by the very files that novactl generated for libvirt; "" when it got
    through. virsh itself does not always repeat it."""
    wrapper = f"{novactl.config}/ssh/libvirt-ssh"
    uri = f"qemu+ssh://{host}/system?command={wrapper}&no_tty=1"
    virsh = subprocess.run(["virsh", "-c", uri, "version"], capture_output=True, text=True, timeout=60)
    ssh = subprocess.run([wrapper, host, "true"], capture_output=True, text=True, timeout=60)
    assert (virsh.returncode == 0) == (ssh.returncode == 0), f"{virsh.stderr}{ssh.stderr}"
    return ssh.stderr


@contextmanager
def another_host_key(host: lab.LabHost) -> Iterator[str]:
    """The host answers with a new key, as after a reinstallation; gives its fingerprint."""
    keys = host.directory / "disk/etc/ssh"
    old = [file.rename(file.with_name(f"old_{file.name}")) for file in keys.glob("ssh_host_*")]
    new = keys / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(new)], check=True)
    try:
        host.stop()
        host.start()
        yield fingerprint(host_key(host.directory / "disk"))
    finally:
        for file in old:
            file.rename(file.with_name(file.name.removeprefix("old_")))
        host.stop()
        host.start()


def test_a_host_whose_key_changed_is_refused_by_both_stacks(fleet, novactl):
    host = fleet.host("kvm1")
    novactl.ok(*add(fleet, "kvm1"))
    add_tiny(novactl)
    novactl.ok("boot", "x", *TINY)
    assert libvirt_over_ssh(novactl, "kvm1") == ""
    with another_host_key(host) as seen:
        refused(novactl, "start", "x", code=7, says="is not the pinned one", hint="--fingerprint")
        refused(novactl, "delete", "x", "--yes", code=7, says="is not the pinned one")
        assert novactl.json("op", "list", "--active") == []
        checked = novactl("host", "check", "kvm1", "-o", "json")
        (row,) = checked.json
        assert (checked.code, row["check"], row["result"]) == (10, "reachable", "fail")
        assert "not the pinned one" in row["message"] and "--fingerprint" in row["hint"]
        assert "Host key verification failed" in libvirt_over_ssh(novactl, "kvm1")
        again = ["host", "add", "kvm1", "--address", host.address, "--identity", str(fleet.identity)]
        refused(novactl, *again, code=7, says=f"changed to {seen}", hint="--fingerprint")
        refused(novactl, *again, "--accept-host-key", code=7, says="changed", hint="--fingerprint")
        novactl.ok(*again, "--fingerprint", seen)
        novactl.ok("delete", "x", "--yes")
        assert libvirt_over_ssh(novactl, "kvm1") == "" and on_host(host)["files"] == []


def test_a_host_behind_another(fleet, novactl):
    first, second = fleet.host("kvm1"), fleet.host("kvm2")
    rule = ["INPUT", "-s", fleet.gateway, "-p", "tcp", "--dport", "22", "-j", "REJECT"]
    second.run(["iptables", "-I", *rule]).check_returncode()
    refused(novactl, *add(fleet, "kvm2"), code=7, says=f"{second.address}: port 22: ")
    novactl.ok(*add(fleet, "kvm1"))
    assert novactl.json(*add(fleet, "kvm2", "--jump", "kvm1"))["jump"] == "kvm1"
    add_tiny(novactl)
    made = novactl.json("boot", "x", *TINY, "--host", "kvm2")
    assert on_host(second)["domains"] == [made["uuid"]]
    novactl.ok("delete", "x", "--yes")
    assert libvirt_over_ssh(novactl, "kvm2") == ""
    with another_host_key(first):  # of the one in between: what lies behind is not to be reached either
        checked = novactl("host", "check", "kvm2", "-o", "json")
        assert checked.code == 10 and "not the pinned one" in checked.json[0]["message"]
        assert "Host key verification failed" in libvirt_over_ssh(novactl, "kvm1")
        assert "Connection closed" in libvirt_over_ssh(novactl, "kvm2")
        refused(novactl, *add(fleet, "kvm2", "--jump", "kvm1"), code=7, says="not the pinned one")
    novactl.ok("host", "check", "kvm2")
    second.run(["iptables", "-D", *rule]).check_returncode()


# --- using them, in the shared lab ---


@pytest.fixture
def as_enrolled(grounds: Grounds) -> Iterator[None]:
    """What a test sets of the hosts is taken back."""
    yield
    plain = ["--enable", "--reserved-memory", "512", "--reserved-vcpus", "0", "--memory-ratio", "1"]
    for host in grounds.fleet.hosts:
        grounds.novactl.ok("host", "set", host.name, *plain)


@pytest.mark.usefixtures("as_enrolled")
def test_a_disabled_host_is_given_nothing(grounds: Grounds, name):
    novactl = grounds.novactl
    for host in ("kvm1", "kvm2"):
        shown = novactl.json("host", "set", host, "--disable", "--reason", "new disks on Tuesday")
        assert (shown["enabled"], shown["disabled_reason"]) == (False, "new disks on Tuesday")
    made = novactl.json("boot", name(), *TINY, "--count", "2")
    assert [row["instance"]["host"] for row in made] == ["kvm3", "kvm3"]
    with unchanged(grounds):
        there = ["boot", name(), *TINY, "--host", "kvm1"]
        no = refused(novactl, *there, code=5, says="disabled: new disks on Tuesday")
        assert no.error["type"] == "NoValidHost"
        (why,) = [row for row in no.error["targets"] if row["host"] == "kvm1"]
        assert why["rejections"][0]["filter"] == "enabled"
        refused(novactl, "host", "set", "kvm1", code=2, says="nothing to set")
        refused(novactl, "host", "set", "kvm1", "--enable", "--disable", code=2, says="exclude each other")
        refused(novactl, "host", "remove", "kvm3", "--yes", code=5, says="has 2 instances", hint="--on kvm3")
    for host in ("kvm1", "kvm2"):
        assert novactl.json("host", "set", host, "--enable")["disabled_reason"] is None


@pytest.mark.usefixtures("as_enrolled")
def test_a_host_takes_what_its_memory_allows_and_no_more(grounds: Grounds, name):
    novactl, web = grounds.novactl, name()
    memory = novactl.json("host", "show", "kvm1")["memory_mib"]
    novactl.ok("host", "set", "kvm1", "--reserved-memory", str(memory - 2 * 96))
    many = ["boot", web, *TINY, "--host", "kvm1", "--count", "3"]
    with unchanged(grounds):
        refused(novactl, *many, code=5, says="memory_mib: 96 wanted, 0 free of 192")
    partly = novactl(*many, "--partial", "-o", "json")
    assert partly.code == 3 and partly.error["type"] == "PartlyDone"
    assert sorted(row["code"] for row in partly.json) == [0, 0, 5]
    assert [row["result"] for row in partly.json].count("done") == 2
    assert len(grounds.domains("kvm1")) == 2 == novactl.json("host", "show", "kvm1")["instances"]
    full = ["boot", name(), *TINY, "--host", "kvm1"]
    refused(novactl, *full, code=5, says="0 free of 192")
    novactl.ok("host", "set", "kvm1", "--memory-ratio", "1.5")
    assert novactl.json(*full, "--dry-run")["host"] == "kvm1"
    novactl.ok("host", "set", "kvm1", "--memory-ratio", "1.0", "--reserved-memory", "512")
    novactl.ok("host", "set", "kvm2", "--reserved-vcpus", "2")
    refused(novactl, "boot", name(), *TINY, "--host", "kvm2", code=5, says="vcpus: 1 wanted, 0 free of 0")
    novactl.ok("host", "set", "kvm2", "--reserved-vcpus", "0")


def test_a_foreign_guest_is_counted_and_never_touched(grounds: Grounds, name):
    novactl, host = grounds.novactl, grounds.host("kvm3")
    host.run(["virsh", "define", "/dev/stdin"], stdin=FOREIGN).check_returncode()
    host.run(["virsh", "start", "theirs"]).check_returncode()
    theirs = grounds.domains("kvm3")
    try:
        novactl.ok("host", "check", "kvm3")
        shown = novactl.json("host", "show", "kvm3")
        assert (shown["foreign_vcpus"], shown["foreign_memory_mib"], shown["instances"]) == (1, 64, 0)
        made = novactl.json("boot", name(), *TINY, "--host", "kvm3")
        novactl.ok("stop", made["name"], "--force")
        novactl.ok("delete", made["name"], "--yes")
        assert grounds.domains("kvm3") == theirs and grounds.state("kvm3", "theirs") == "running"
        refused(novactl, "delete", theirs[0], "--yes", code=4, says="does not exist")
    finally:
        host.run(["virsh", "destroy", "theirs"])
        host.run(["virsh", "undefine", "theirs"])
    novactl.ok("host", "check", "kvm3")
    assert novactl.json("host", "show", "kvm3")["foreign_memory_mib"] == 0


def test_a_host_without_libvirtd(grounds: Grounds, name):
    novactl, host, web = grounds.novactl, grounds.host("kvm2"), name()
    novactl.ok("boot", web, "--flavor", "tiny", "--image", "deaf", "--host", "kvm2")
    host.kill_libvirtd()
    try:
        with unchanged(grounds):
            for words in (["stop", web], ["delete", web, "--yes"]):
                refused(novactl, *words, code=7, says="failed to connect", hint="is libvirtd")
        checked = novactl("host", "check", "kvm2", "-o", "json")
        (row,) = [row for row in checked.json if row["check"] == "libvirt"]
        assert checked.code == 10 and row["result"] == "fail" and "is libvirtd" in row["hint"]
        assert novactl.json("host", "show", "kvm2")["state"] == "down"
        refused(novactl, "boot", name(), *TINY, "--host", "kvm2", code=5, says="kvm2: is down")
    finally:
        host.start_libvirtd()
    checked = novactl("host", "check", "kvm2", "kvm1", "-o", "json")
    assert checked.code == 0 and {row["host"] for row in checked.json} == {"kvm1", "kvm2"}
    assert novactl.json("host", "show", "kvm2")["state"] == "up"
    novactl.ok("delete", web, "--yes")


def test_a_host_that_is_off(grounds: Grounds, name):
    novactl, host = grounds.novactl, grounds.host("kvm2")
    host.stop()
    try:
        checked = novactl("host", "check", "kvm2", "-o", "json")
        assert checked.code == 10 and [row["check"] for row in checked.json] == ["reachable"]
        made = novactl.json("boot", name(), *TINY)
        assert made["host"] != "kvm2"
    finally:
        host.start()
    wait_until(lambda: novactl("host", "check", "kvm2").code == 0, 20, "kvm2 to be fit again")
