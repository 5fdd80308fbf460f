"""Backups of real guests: what was on the disk is in what is made of them, whole or by differences."""

import base64
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    Running,
    console_until,
    gate,
    jobs,
    refused,
    unchanged,
    unsettled,
    wait_until,
)

pytestmark = pytest.mark.lab

Name = Callable[[], str]

WRITER = """#!/bin/sh
(n=0; while n=$((n + 1)); do
    dd if=/dev/urandom of=/disk/data bs=64k count=32; sync
    dd if=/dev/zero of=/disk/data bs=64k count=16 conv=notrunc; echo "line $n" >> /disk/log; sync
    echo "tiny: wrote $n"; sleep 1
done) > /dev/console 2>/dev/null &
"""
"""It writes what it wrote before again, and zeros over a part of it."""


def booted(grounds: Grounds, name: str, tmp_path: Path, *, writes: bool = False) -> dict[str, Any]:
    words = ["--flavor", "tiny", "--image", "tiny", "--host", "kvm1"]
    if writes:
        (tmp_path / "writer").write_text(WRITER)
        words += ["--user-data", str(tmp_path / "writer")]
    made: dict[str, Any] = grounds.novactl.json("boot", name, *words)
    console_until(grounds, made, "tiny: wrote 2" if writes else "tiny: ready")
    return made


def backed_up(grounds: Grounds, guest: str, name: str, *words: str, rotate: int = 4) -> dict[str, Any]:
    create = ["backup", "create", guest, "--name", name, "--type", "daily", "--rotate", str(rotate), *words]
    made: dict[str, Any] = grounds.novactl.json(*create)
    return made


def checkpoints(grounds: Grounds, guest: dict[str, Any], host: str = "kvm1") -> list[str]:
    told = grounds.host(host).run(["virsh", "-q", "checkpoint-list", guest["uuid"], "--name"]).stdout
    return told.split()


def bitmaps(grounds: Grounds, guest: dict[str, Any], host: str) -> list[str]:
    """In the disk of a guest that is off."""
    told = grounds.host(host).run(["qemu-img", "info", "--output=json", f"{INSTANCES}/{guest['uuid']}/disk"])
    return [one["name"] for one in json.loads(told.stdout)["format-specific"]["data"].get("bitmaps", [])]


def compared(grounds: Grounds, file: Path, guest: dict[str, Any], host: str) -> str:
    """What qemu-img says of the file and the disk of the guest, which stands still."""
    disk, copy = f"{INSTANCES}/{guest['uuid']}/disk", "/root/.ssh/copy"  # a host sees no /tmp of ours
    compare = f"base64 -d >{copy}; qemu-img compare -U -f qcow2 -F qcow2 {disk} {copy}; rm {copy}"
    packed = base64.b64encode(file.read_bytes()).decode()
    ended = grounds.host(host).run(["sh", "-c", compare], stdin=packed)
    return f"{ended.stdout}{ended.stderr}".strip()


@pytest.fixture(autouse=True)
def none_left(grounds: Grounds) -> Any:
    """Backups outlive their instances: each test removes its own."""
    yield
    for one in grounds.novactl.json("backup", "list", "--all"):
        grounds.novactl("backup", "delete", one["id"], "--yes")
    assert grounds.novactl.json("backup", "list", "--all") == []


def test_differences_add_up_to_the_disk(grounds: Grounds, name: Name, tmp_path: Path) -> None:
    """Of a guest that writes and moves meanwhile; the last one is of a guest that stands still."""
    novactl, guest = grounds.novactl, booted(grounds, name(), tmp_path, writes=True)
    assert backed_up(grounds, guest["name"], "first")["reason"] == "it is the first"
    console_until(grounds, guest, "tiny: wrote 4")
    assert backed_up(grounds, guest["name"], "second")["kind"] == "incremental"
    novactl.ok("migrate", guest["name"], "--live", "--host", "kvm2")
    assert checkpoints(grounds, guest, "kvm2") == []  # libvirt has not taken it along, the disk has
    novactl.ok("pause", guest["name"])
    third = backed_up(grounds, guest["name"], "third", "--incremental")
    assert third["kind"] == "incremental" and len(checkpoints(grounds, guest, "kvm2")) == 1
    novactl.ok("backup", "export", "third", str(tmp_path / "out"))
    assert compared(grounds, tmp_path / "out" / "disk.qcow2", guest, "kvm2") == "Images are identical."
    novactl.ok("unpause", guest["name"])
    novactl.ok("backup", "export", "first", str(tmp_path / "first.raw"))
    log = ["debugfs", "-R", "cat /log", str(tmp_path / "first.raw")]
    assert "line 1\n" in subprocess.run(log, capture_output=True, text=True, check=True).stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (disk,) = manifest["disks"]
    summed = subprocess.run(["sha256sum", tmp_path / "out" / disk["file"]], capture_output=True, text=True)
    assert summed.stdout.startswith(disk["sha256"])
    novactl.ok("backup", "delete", "third", "--yes")
    assert checkpoints(grounds, guest, "kvm2") == []
    assert backed_up(grounds, guest["name"], "fourth")["kind"] == "full"
    novactl.ok("stop", guest["name"], "--force")
    assert len(bitmaps(grounds, guest, "kvm2")) == 1
    novactl.ok("backup", "delete", "fourth", "--yes")
    assert bitmaps(grounds, guest, "kvm2") == []
    assert unsettled(grounds) == []


def test_rotation_and_restoring(grounds: Grounds, name: Name, tmp_path: Path) -> None:
    novactl, guest = grounds.novactl, booted(grounds, name(), tmp_path)
    for number in ("one", "two", "three"):
        backed_up(grounds, guest["name"], number, rotate=2)
    assert [one["name"] for one in novactl.json("backup", "list", guest["name"])] == ["two", "three"]
    kept = novactl.json("backup", "list", guest["name"], "--all")
    assert [one["name"] for one in kept] == ["one", "two", "three"]  # two is a difference to one
    assert [one["kind"] for one in kept] == ["full", "incremental", "full"]
    backed_up(grounds, guest["name"], "four", rotate=2)
    kept = novactl.json("backup", "list", guest["name"], "--all")
    assert [one["name"] for one in kept] == ["three", "four"]
    made = novactl.json("backup", "restore", "four", "--as", f"{guest['name']}b", "--host", "kvm1")
    assert (made["status"], made["flavor"], made["image"]) == ("ACTIVE", "tiny", "four")
    console_until(grounds, made, "tiny: boot count 2")
    assert novactl.json("backup", "show", "four")["kind"] == "full"  # made whole for it
    with unchanged(grounds):
        here = ["backup", "restore", "four", "--in-place"]
        refused(novactl, *here, guest["name"], code=5, says="an instance that is ACTIVE")
        refused(novactl, *here, made["name"], code=5, says="an instance that is ACTIVE")
    novactl.ok("reboot", guest["name"], "--hard")
    console_until(grounds, guest, "tiny: boot count 2")
    novactl.ok("stop", guest["name"], "--force")
    plan = novactl.ok("backup", "restore", "four", "--in-place", guest["name"], "--dry-run").out
    assert "disk is as in the backup; the one before is kept aside" in plan
    novactl.ok("backup", "restore", "four", "--in-place", guest["name"])
    novactl.ok("start", guest["name"])
    console_until(grounds, guest, "tiny: boot count 2")
    again = backed_up(grounds, guest["name"], "five")
    assert again["kind"] == "full" and "the disks do not tell what changed" in again["reason"]
    assert unsettled(grounds) == []


def test_a_killed_client_leaves_nothing(grounds: Grounds, name: Name, tmp_path: Path) -> None:
    novactl, guest = grounds.novactl, booted(grounds, name(), tmp_path)
    host = grounds.host("kvm1")
    files = host.run(["ls", "-A", f"{INSTANCES}/{guest['uuid']}"]).stdout
    create = ["backup", "create", guest["name"], "--name", "cut", "--type", "daily", "--rotate", "1"]
    with gate(host, "virsh", "backup-begin", when="after") as held:
        killed = Running(novactl, *create)
        held.reached(killed)
        killed.signal(signal.SIGKILL)
        killed.end()
        assert len(checkpoints(grounds, guest)) == 1
    (left,) = novactl.json("op", "list", "--active")
    assert novactl("op", "rollback", left["id"]).code in (0, 1)
    assert checkpoints(grounds, guest) == [] and jobs(host) == []
    assert host.run(["ls", "-A", f"{INSTANCES}/{guest['uuid']}"]).stdout == files
    assert grounds.state("kvm1", guest["uuid"]) == "running"
    assert novactl.json("backup", "list") == [] and unsettled(grounds) == []


def test_bad_input(grounds: Grounds, name: Name, tmp_path: Path) -> None:
    novactl, guest = grounds.novactl, booted(grounds, name(), tmp_path)
    backed_up(grounds, guest["name"], "taken")
    with unchanged(grounds):
        create = ["backup", "create", guest["name"], "--name", "b", "--type", "daily", "--rotate"]
        refused(novactl, *create, "0", code=2, says="at least 1 backup is kept")
        refused(novactl, *create, "-1", code=2, says="at least 1 backup is kept")
        refused(novactl, *create, "2", "--quiesce", code=5, says="no agent answers in it")
        refused(novactl, *create, "2", "--full", "--incremental", code=2, says="exclude each other")
        refused(novactl, *create, "1", "--incremental", code=5, says="no incremental backup")
        taken = ["backup", "create", guest["name"], "--name", "taken", "--type", "daily", "--rotate", "2"]
        refused(novactl, *taken, code=5, says="backup taken exists already")
        hourly = ["backup", "create", guest["name"], "--name", "b", "--type", "hourly", "--rotate", "2"]
        refused(novactl, *hourly, code=2, says="is not one of daily, weekly")
        refused(novactl, "backup", "restore", "nosuch", code=4, says="backup 'nosuch' does not exist")
        refused(novactl, "backup", "restore", "taken", code=5, says="exists already")
        refused(novactl, "backup", "export", "taken", str(tmp_path), code=5, says="exists already")
    store = novactl.config / "images"
    (file,) = novactl.json("backup", "show", "taken")["files"].values()
    path = store / file["sha256"]
    path.chmod(0o600)
    with path.open("r+b") as damaged:
        damaged.seek(1 << 16)
        damaged.write(b"damaged")
    refused(
        novactl, "backup", "restore", "taken", "--as", name(), code=5, says="is damaged in the image store"
    )
    wait_until(lambda: grounds.state("kvm1", guest["uuid"]) == "running", 5, "the guest")
