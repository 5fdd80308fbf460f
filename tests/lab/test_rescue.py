"""rescue and unrescue on real guests: the rescue system reads the disk that it is to repair."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, console, console_until, refused, unchanged, wait_until

pytestmark = pytest.mark.lab

TELLS = """#!/bin/sh
[ -e /disk/mark ] || echo "made at boot $(cat /disk/boots | wc -l)" >/disk/mark
mkdir -p /behind
mount -t ext4 /dev/vdb /behind && {
    echo "tiny: behind: $(cat /behind/mark), boots: $(cat /behind/boots | wc -l)"
    echo repaired >/behind/repaired
    umount /behind
}
[ ! -e /disk/repaired ] || echo "tiny: root is $(cat /disk/repaired)"
sync
echo "tiny: told"
"""


def booted(grounds: Grounds, name: str, directory: Path, *words: str) -> dict[str, Any]:
    """A guest that leaves a mark on its disk, and tells what is on the disk behind the one it boots."""
    script = directory / "tells"
    script.write_text(TELLS)
    what = ["--flavor", "tiny", "--image", "tiny", "--network", "lan", "--user-data", str(script)]
    made: dict[str, Any] = grounds.novactl.json("boot", name, *what, "--host", "kvm1", *words)
    console_until(grounds, made, "tiny: told")
    return made


def told(grounds: Grounds, one: dict[str, Any], times: int) -> str:
    """What is on the console when a guest has told that often."""
    wait_until(lambda: console(grounds, one).count("tiny: told") >= times, 90, f"{times} guests")
    return console(grounds, one)


def test_the_rescue_system_repairs_the_disk(
    grounds: Grounds, name: Callable[[], str], tmp_path: Path
) -> None:
    novactl, web = grounds.novactl, name()
    one = booted(grounds, web, tmp_path)
    (row,) = novactl.json("rescue", web)
    assert (row["result"], row["instance"]["status"]) == ("done", "RESCUE")
    assert row["instance"]["addresses"] == one["addresses"]
    said = told(grounds, one, 2)
    assert "tiny: behind: made at boot 1, boots: 1" in said and "tiny: root is" not in said
    assert said.count("tiny: boot count 1") == 2  # the disk that it boots is new
    assert [f for f in novactl.json("audit") if f["severity"] != "info"] == []
    disks = grounds.host("kvm1").run(["virsh", "-q", "domblklist", one["uuid"]]).stdout
    assert [line.split()[1].rpartition("/")[2] for line in disks.splitlines() if line] == [
        "disk.rescue",
        "disk",
        "disk.config",
    ]
    for verb, status in (("stop", "stop"), ("start", "start"), ("reboot", "reboot"), ("pause", "pause")):
        refused(novactl, verb, web, code=5, says=f"cannot {status} an instance that is RESCUE")
    refused(novactl, "reboot", web, "--hard", code=5, says="RESCUE")
    refused(novactl, "migrate", web, code=5, says="RESCUE")
    refused(novactl, "resize", web, "--flavor", "tiny", code=5, says="RESCUE")
    refused(novactl, "rescue", web, code=5, says="RESCUE")
    drain = novactl.json("host", "drain", "kvm1", "--dry-run")
    assert [move["blocker"] for move in drain["moves"]] == ["is RESCUE: cannot be moved"]
    novactl.ok("set", web, "--meta", "asked=twice")  # its domain stays that of the rescue
    assert "disk.rescue" in grounds.host("kvm1").run(["virsh", "dumpxml", "--inactive", one["uuid"]]).stdout
    (row,) = novactl.json("unrescue", web)
    assert (row["result"], row["instance"]["status"]) == ("done", "ACTIVE")
    said = told(grounds, one, 3)
    assert "tiny: boot count 2" in said and "tiny: root is repaired" in said
    files = grounds.host("kvm1").run(["ls", f"{INSTANCES}/{one['uuid']}"]).stdout.split()
    assert "disk.rescue" not in files and "disk" in files
    refused(novactl, "unrescue", web, code=5, says="cannot unrescue an instance that is ACTIVE")


def test_what_cannot_be_rescued(grounds: Grounds, name: Callable[[], str], tmp_path: Path) -> None:
    novactl, web = grounds.novactl, name()
    booted(grounds, web, tmp_path)
    disk = tmp_path / "efi.raw"
    disk.write_bytes(bytes(1 << 20))
    efi = ["--file", str(disk), "--format", "raw", "--property", "hw_firmware_type=uefi"]
    novactl.ok("image", "add", "efi", *efi)
    novactl.ok("pause", web)
    try:
        with unchanged(grounds):
            refused(novactl, "rescue", web, code=5, says="cannot rescue an instance that is PAUSED")
        novactl.ok("unpause", web)
        with unchanged(grounds):
            refused(novactl, "rescue", web, "--image", "none", code=4, says="none")
            refused(novactl, "rescue", web, "--image", "efi", code=5, says="its firmware is bios")
    finally:
        novactl.ok("image", "delete", "efi", "--yes")


def test_a_stopped_one_and_delete(grounds: Grounds, name: Callable[[], str], tmp_path: Path) -> None:
    """Nothing is left of it; a host that lost its power says nothing new of it."""
    novactl, web = grounds.novactl, name()
    one = booted(grounds, web, tmp_path)
    novactl.ok("stop", web, "--force")
    assert [row["result"] for row in novactl.json("rescue", web, "--image", "deaf")] == ["done"]
    assert "tiny.noacpi" in grounds.host("kvm1").run(["virsh", "dumpxml", one["uuid"]]).stdout
    grounds.host("kvm1").run(["virsh", "destroy", one["uuid"]]).check_returncode()
    novactl.ok("list", "--refresh")
    assert novactl.json("show", web)["status"] == "RESCUE"
    novactl.ok("delete", web, "--yes")
    assert grounds.leftovers() == {}
