"""The shipped playbooks on real hosts, and what playbooks do there when something goes wrong."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl import lab
from tests.lab.conftest import Grounds
from tests.lab.support import console_until
from tests.support.command import Command

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny"]
ASKS = "/var/lib/novactl/reboot-me"  # a lab host has nothing that could reboot it: the test sees this file


@contextlib.contextmanager
def rebooting(grounds: Grounds, *names: str) -> Iterator[list[str]]:
    """Meanwhile hosts that ask for it are switched off and on; which did, in order."""
    rebooted: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for name in names:
                asks = grounds.host(name).directory / "disk" / ASKS.removeprefix("/")
                if asks.exists():
                    asks.unlink()
                    rebooted.append(name)
                    grounds.host(name).stop()
                    grounds.host(name).start()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield rebooted
    finally:
        over.set()
        watcher.join()


def reboot_words(*names: str) -> list[str]:
    words = ["playbook", "run", "rolling-reboot", "--yes", "-e", f'reboot_command=["touch", "{ASKS}"]']
    return [*words, *(word for name in names for word in ("--on", name))]


def statuses(grounds: Grounds, *names: str) -> dict[str, str]:
    return {one["name"]: one["status"] for one in grounds.novactl.json("list") if one["name"] in names}


def test_rolling_reboot_is_killed_and_resumed(grounds: Grounds, name) -> None:
    """Guests that ran run again, a stopped one stays off, one host goes after the other."""
    novactl = grounds.novactl
    runs, off, other = name(), name(), name()
    made = {
        runs: novactl.json("boot", runs, *TINY, "--host", "kvm1"),
        off: novactl.json("boot", off, *TINY, "--host", "kvm1"),
        other: novactl.json("boot", other, *TINY, "--host", "kvm2"),
    }
    for each in made.values():
        console_until(grounds, each, "tiny: ready")
    novactl.ok("stop", off)
    boots = {
        host: grounds.host(host).run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
        for host in ("kvm1", "kvm2")
    }
    with rebooting(grounds, "kvm1", "kvm2") as rebooted:
        process = novactl.popen(*reboot_words("kvm1", "kvm2"))
        deadline = time.monotonic() + 60
        while not rebooted and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert rebooted == ["kvm1"]
        (parent,) = [
            op for op in novactl.json("op", "list", "--active") if op["target"] == "rolling-reboot on 2 hosts"
        ]
        children = {op["target"]: op["state"] for op in novactl.json("op", "show", parent["id"])["children"]}
        assert children == {"rolling-reboot on kvm1": "running", "rolling-reboot on kvm2": "planned"}
        again = novactl(*reboot_words("kvm2"))
        assert again.code == 6 and "playbook-host is held" in again.err
        novactl.ok("op", "resume", parent["id"])
    assert rebooted == ["kvm1", "kvm2"]
    assert statuses(grounds, *made) == {runs: "ACTIVE", off: "SHUTOFF", other: "ACTIVE"}
    assert [grounds.state("kvm1", made[runs]["uuid"]), grounds.state("kvm1", made[off]["uuid"])] == [
        "running",
        "shut off",
    ]
    assert grounds.state("kvm2", made[other]["uuid"]) == "running"
    for host, before in boots.items():
        assert grounds.host(host).run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout != before
        shown = novactl.json("host", "show", host)
        assert (shown["enabled"], shown["disabled_reason"]) == (True, None)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[tuple[lab.Fleet, Command]]:
    """A lab of one machine that is no hypervisor yet: no libvirt runs, no user, no bridge for guests. Its
    packages are those of the machine that the lab is on."""
    label = f"b{os.getpid() % 1000000}"
    lab.down(label)
    fleet = lab.up(label, 1)
    try:
        fleet.host("kvm1").kill_libvirtd()
        fleet.host("kvm1").run(["rm", "-rf", "/run/libvirt/libvirt-sock"])
        yield fleet, Command(tmp_path / "config")
    finally:
        lab.down(label)


def test_a_bare_machine_is_enrolled(bare: tuple[lab.Fleet, Command], tmp_path: Path) -> None:
    fleet, novactl = bare
    host = fleet.host("kvm1")
    key = fleet.identity.with_suffix(".pub").read_text().split()
    words = ["playbook", "run", "enroll", "--yes", "-e", "name=hv1", "-e", f"address={host.address}"]
    words += ["-e", f"identity={fleet.identity}", "-e", f"fingerprint={host.fingerprint}"]
    words += ["-e", "login=novactl", "-e", f"public_key={key[0]} {key[1]}"]
    words += ["-e", "bridge_address=10.99.0.1/24"]
    assert novactl(*words, "--dry-run").code == 0
    assert host.run(["test", "-e", "/var/lib/novactl/fleet"]).returncode == 1  # nothing was changed

    broken = novactl(*words, "-e", "zone=no zone")
    assert broken.code == 2 and "zone" in broken.err
    # its libvirt cannot start: what has an undo is taken back, and the machine is free again
    host.run(
        [
            "sh",
            "-c",
            "mv /etc/libvirt/libvirtd.conf /etc/libvirt/kept && echo nonsense >/etc/libvirt/libvirtd.conf",
        ]
    )
    failed = novactl(*words)
    assert failed.code == 1 and "libvirt runs" in failed.err, failed.err
    assert host.run(["id", "novactl"]).returncode == 1
    assert host.run(["ip", "link", "show", "brguests"]).returncode == 1
    assert host.run(["test", "-e", "/var/lib/novactl/fleet"]).returncode == 1
    assert novactl.json("host", "list") == []
    host.run(["mv", "/etc/libvirt/kept", "/etc/libvirt/libvirtd.conf"])

    (done,) = novactl.json(*words)
    assert done["result"] == "done"
    shown = novactl.json("host", "show", "hv1")
    assert (shown["user"], shown["address"], shown["state"]) == ("novactl", host.address, "up")
    assert "10.99.0.1/24" in host.run(["ip", "-o", "address", "show", "brguests"]).stdout
    steps = {
        step["summary"].partition(":")[0]: step
        for step in novactl.json("op", "show", done["operation"])["steps"]
    }
    assert steps["the packages are installed"]["result"] == {"changed": False}  # they are the machine's
    assert steps["libvirt runs"]["result"]["changed"] is True

    again = novactl.json(*words)  # by root still; nothing is made twice
    assert again[0]["result"] == "done"
    novactl.ok("flavor", "create", "tiny", "--vcpus", "1", "--memory", "96", "--disk", "1")
    assert novactl.json("host", "check", "hv1")
