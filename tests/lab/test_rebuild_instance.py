"""rebuild on real guests: a fresh disk, and everything else as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, console_until, gate, last, refused, unchanged
from tests.lab.test_bad_input import public_key
from tests.lab.test_rescue import booted, told

pytestmark = pytest.mark.lab

KEPT = ("uuid", "name", "addresses", "host", "flavor", "metadata", "key_name", "created_at")


def test_a_fresh_root_with_the_same_address(
    grounds: Grounds, name: Callable[[], str], tmp_path: Path
) -> None:
    novactl, web = grounds.novactl, name()
    one = booted(grounds, web, tmp_path, "--meta", "role=web")
    with unchanged(grounds):
        refused(novactl, "rebuild", web, code=8, says="")
    (plan,) = novactl.json("rebuild", web, "--dry-run")
    assert [step["name"] for step in plan["steps"]].count("set-disks-aside") == 1
    (row,) = novactl.json("rebuild", web, "--yes")
    assert (row["result"], row["instance"]["status"]) == ("done", "ACTIVE")
    assert {key: row["instance"][key] for key in KEPT} == {key: one[key] for key in KEPT}
    said = told(grounds, one, 2)
    ip = one["addresses"]["lan"][0]["ip"]
    assert said.count("tiny: boot count 1") == 2 and said.count(f" {ip}/") == 2 and "meta role=web" in said
    files = grounds.host("kvm1").run(["ls", "-A", f"{INSTANCES}/{one['uuid']}"]).stdout
    assert "disk.op-" not in files
    assert [f for f in novactl.json("audit") if f["severity"] != "info"] == []
    # another image, of one that is stopped and stays so
    novactl.ok("stop", web, "--force")
    (row,) = novactl.json("rebuild", web, "--image", "deaf", "--yes")
    assert (row["instance"]["status"], row["instance"]["image"]) == ("SHUTOFF", "deaf")
    novactl.ok("start", web)
    assert told(grounds, one, 3).count("tiny: boot count 1") == 3
    # another key, and other user-data
    script = tmp_path / "first.sh"
    script.write_text("#!/bin/sh\necho user-data came anew\n")
    novactl.ok("keypair", "add", web, "--public-key", str(public_key(tmp_path)))
    given = ["--key", web, "--user-data", str(script)]
    (row,) = novactl.json("rebuild", web, "--image", "tiny", *given, "--yes")
    assert row["instance"]["key_name"] == web
    console_until(grounds, one, "user-data came anew")
    novactl.ok("keypair", "delete", web)


def test_a_failure_brings_the_old_disk_back(
    grounds: Grounds, name: Callable[[], str], tmp_path: Path
) -> None:
    novactl, web = grounds.novactl, name()
    one = booted(grounds, web, tmp_path)
    host = grounds.host("kvm1")
    kill = f"for old in {INSTANCES}/{one['uuid']}/disk.op-*; do [ ! -e $old ] || exit 1; done"
    tool = host.run(["sh", "-c", "command -v qemu-img"]).stdout.strip()
    script = f'#!/bin/sh\n[ "$1" != create ] || {{ {kill}; }}\nexec /run/qemu-img.now "$@"\n'
    put = f"cat >/run/qemu-img; chmod 755 /run/qemu-img; cp {tool} /run/qemu-img.now"
    host.run(["sh", "-c", f"{put}; mount --bind /run/qemu-img {tool}"], stdin=script).check_returncode()
    try:
        refused(novactl, "rebuild", web, "--yes", code=1, says="cannot make disk")
    finally:
        host.run(["umount", tool]).check_returncode()
    assert novactl.json("show", web)["status"] == "ACTIVE"
    assert "tiny: boot count 2" in told(grounds, one, 2)
    assert last(novactl, web)["state"] == "undone"


def test_what_cannot_be_rebuilt(grounds: Grounds, name: Callable[[], str], tmp_path: Path) -> None:
    """Mixed targets end with 3; an image that the flavor or the host cannot have is refused."""
    novactl, web, other = grounds.novactl, name(), name()
    booted(grounds, web, tmp_path)
    booted(grounds, other, tmp_path)
    novactl.ok("pause", other)
    ended = novactl("rebuild", web, other, "--yes", "-o", "json")
    assert ended.code == 3
    assert [row["code"] for row in ended.json] == [0, 5]
    disk = tmp_path / "big.raw"
    disk.write_bytes(bytes(1 << 20))
    file = ["--file", str(disk), "--format", "raw"]
    for image, more in (("big", ["--min-disk", "9"]), ("arm", ["--property", "hw_architecture=aarch64"])):
        novactl.ok("image", "add", image, *file, *more)
    try:
        with unchanged(grounds):
            refused(novactl, "rebuild", web, "--image", "big", "--yes", code=5, says="disk of 1 GiB")
            refused(novactl, "rebuild", web, "--image", "arm", "--yes", code=5, says="may not have image arm")
            refused(novactl, "rebuild", web, "--image", "none", "--yes", code=4, says="none")
    finally:
        novactl.ok("image", "delete", "big", "--yes")
        novactl.ok("image", "delete", "arm", "--yes")


def test_killed_in_the_middle(grounds: Grounds, name: Callable[[], str], tmp_path: Path) -> None:
    """Delete wins over a rebuild that was left."""
    from tests.lab.support import Running

    novactl, web = grounds.novactl, name()
    booted(grounds, web, tmp_path)
    with gate(grounds.host("kvm1"), "qemu-img", "create") as held:
        running = Running(novactl, "rebuild", web, "--yes")
        held.reached(running)
        running.process.kill()
        running.process.wait()
    assert novactl.json("show", web)["status"] == "REBUILD"
    novactl.ok("delete", web, "--yes", "--lock-wait", "30")
    assert grounds.leftovers() == {}
