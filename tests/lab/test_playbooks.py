"""The shipped playbooks on real hosts, and what playbooks do there when something goes wrong."""

import contextlib
import json
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


CHORES = """\
name: chores
description: something on each host, in its turn
hosts: {all: true}
serial: 1
max_fail_percentage: 40
steps:
  - name: its turn
    run: [sh, -c, 'echo "$1" >>/srv/shared/turns', sh, "{{ target }}"]
  - name: a mark
    put: {path: /var/lib/novactl/chores, content: "of {{ target }}\\n", mode: "0600"}
    undo: [rm, -f, /var/lib/novactl/chores]
  - name: long work
    when: has(host.labels.slow)
    run: [sh, -c, 'echo began >>/srv/shared/turns; sleep 3; echo ended >>/srv/shared/turns']
  - name: something fails
    when: has(host.labels.broken)
    run: [sh, -c, 'echo what is wrong >&2; exit 7']
"""


def test_turns_failures_and_a_host_that_loses_its_power(grounds: Grounds, tmp_path: Path) -> None:
    """kvm1 fails, which is not too much; kvm2 is switched off in the middle of a command and comes back."""
    novactl, turns = grounds.novactl, grounds.fleet.shared / "turns"
    file = tmp_path / "chores.yaml"
    file.write_text(CHORES)
    labels = {"kvm1": "broken=yes", "kvm2": "slow=yes"}
    for host, label in labels.items():
        novactl.ok("host", "set", host, "--label", label)
    try:
        process = novactl.popen("playbook", "run", str(file), "--yes", "-o", "json")
        deadline = time.monotonic() + 60
        while "began" not in (turns.read_text() if turns.exists() else "") and time.monotonic() < deadline:
            time.sleep(0.05)
        grounds.host("kvm2").stop()
        grounds.host("kvm2").start()
        out, err = process.communicate(timeout=120)
    finally:
        for host, label in labels.items():
            novactl.ok("host", "set", host, "--label", label.replace("yes", ""))
    assert process.returncode == 3, err
    assert "something fails: sh ended with 7: what is wrong" in err
    assert "kvm1: its turn: was done, and stays" in err
    rows = {row["target"]: (row["result"], row["code"]) for row in json.loads(out)}
    assert rows == {"kvm1": ("failed", 1), "kvm2": ("done", 0), "kvm3": ("done", 0)}
    assert turns.read_text().split() == ["kvm1", "kvm2", "began", "began", "ended", "kvm3"]
    for host in ("kvm1", "kvm2", "kvm3"):
        found = grounds.host(host).run(
            ["sh", "-c", "cd /var/lib/novactl; stat -c %a chores; cat chores; ls job"]
        )
        assert found.stdout.split() == ([] if host == "kvm1" else ["600", "of", host])
        grounds.host(host).run(["rm", "-f", "/var/lib/novactl/chores"])
    turns.unlink()


def test_nightly_and_prune(grounds: Grounds, name) -> None:
    novactl, once = grounds.novactl, name()
    novactl.ok("boot", once, *TINY, "--host", "kvm3")
    novactl.ok("delete", once, "--yes")
    bases = ["sh", "-c", "ls /var/lib/novactl/instances/_base/*.json"]
    assert grounds.host("kvm3").run(bases).returncode == 0
    done = novactl.json("playbook", "run", "prune", "--yes", "-e", "older_than=0s")
    assert {row["target"]: row["result"] for row in done} == dict.fromkeys(("kvm1", "kvm2", "kvm3"), "done")
    assert grounds.host("kvm3").run(bases).returncode == 2  # there are none
    assert novactl("audit").code == 0
    novactl.ok("playbook", "run", "nightly", "--yes")
    grounds.host("kvm3").kill_libvirtd()
    failed = novactl("playbook", "run", "nightly", "--yes")
    grounds.host("kvm3").start_libvirtd()
    assert failed.code == 1
    assert "a host is not as it should be; novactl host check says what" in failed.err
