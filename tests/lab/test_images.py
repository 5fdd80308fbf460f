"""Images between six real hosts: the chain of a push, with slow links, a host that dies, a command that is
killed; base files that are damaged; and an operator whose own store has nothing."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from novactl.lab import guests, network
from tests.lab.conftest import Grounds, enrol
from tests.lab.support import INSTANCES, MIB, wait_until
from tests.support import ceph
from tests.support.command import Command

pytestmark = pytest.mark.lab

NAMES = [f"kvm{n}" for n in range(1, 7)]
SIZE = 64 * MIB
BASE = f"{INSTANCES}/_base"


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    name = f"i{os.getpid() % 1000000}"
    lab.down(name)
    fleet = lab.up(name, 6)
    try:
        yield enrol(fleet, tmp_path_factory.mktemp("novactl"))
    finally:
        lab.down(name)


@contextmanager
def shaped(grounds: Grounds, mbit: int) -> Iterator[str]:
    """Whatever a host or we send goes no faster; gives our link to the lab."""
    link = our_link(grounds)
    limit = f"tbf rate {mbit}mbit burst 256kb latency 100ms".split()
    alive = [host for host in grounds.fleet.hosts if host.alive()]
    for host in alive:
        host.run(["tc", "qdisc", "add", "dev", "eth0", "root", *limit]).check_returncode()
    subprocess.run(["tc", "qdisc", "add", "dev", link, "root", *limit], check=True)
    try:
        yield link
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", link, "root"], check=False)
        for host in (one for one in alive if one.alive()):
            host.run(["tc", "qdisc", "del", "dev", "eth0", "root"])


@pytest.fixture
def second(six: Grounds, tmp_path: Path) -> Grounds:
    """Another operator of the same fleet: what the first has added is not in his store."""
    config = tmp_path / "second"
    shutil.copytree(six.novactl.config, config, ignore=shutil.ignore_patterns("images", "*.db*", "run"))
    return Grounds(six.fleet, Command(config, NOVACTL_DB=f"sqlite:///{six.novactl.config}/novactl.db"))


def received(grounds: Grounds, name: str) -> int:
    """Bytes that a host got over its link."""
    where = "/sys/class/net/eth0/statistics/rx_bytes"
    return int(grounds.host(name).run(["cat", where]).stdout)


def sent(link: str) -> int:
    return int(Path(f"/sys/class/net/{link}/statistics/tx_bytes").read_text())


def image(grounds: Grounds, tmp_path: Path, name: str, *, qcow2: bool = False, size: int = SIZE) -> str:
    """An image whose bytes nothing packs; its SHA-256."""
    path = tmp_path / name
    path.write_bytes(os.urandom(size))
    kind = "raw"
    if qcow2:
        kind = "qcow2"
        made = path.with_suffix(".qcow2")
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, made], check=True)
        path = made
    return str(grounds.novactl.json("image", "add", name, "--file", str(path), "--format", kind)["sha256"])


def whole(grounds: Grounds, names: list[str], image: str) -> None:
    """The hosts have it, by their own reading; no key, no job, no half of it is left anywhere."""
    rows = grounds.novactl.json("image", "verify", image, *(w for name in names for w in ("--on", name)))
    assert {row["host"]: row["result"] for row in rows} == dict.fromkeys(names, "ok")
    for name in names:
        host = grounds.host(name)
        assert host.run(["sh", "-c", "ls /var/lib/novactl/trust /var/lib/novactl/job"]).stdout.split() in (
            ["/var/lib/novactl/job:", "/var/lib/novactl/trust:"],
            ["/var/lib/novactl/job:"],
        )
        assert "novactl op-" not in host.run(["cat", "/root/.ssh/authorized_keys"]).stdout


def test_a_push_goes_once_through_our_link_and_from_host_to_host(six: Grounds, tmp_path: Path) -> None:
    image(six, tmp_path, "chain")
    image(six, tmp_path, "one")
    shown = six.novactl.json("image", "push", "chain", "--to", "kvm1", "--to", "kvm2", "--dry-run")
    assert [step["name"] for plan in shown for step in plan["steps"]] == ["fetch-base", "pull-base"]
    with shaped(six, 100) as link:
        began = time.monotonic()
        six.novactl.ok("image", "push", "one", "--to", "kvm1")
        alone = time.monotonic() - began
        before, began = sent(link), time.monotonic()
        rows = six.novactl.json("image", "push", "chain", "--all")
        took, through = time.monotonic() - began, sent(link) - before
    assert {row["target"]: row["result"] for row in rows} == dict.fromkeys(NAMES, "done")
    assert through < 1.3 * SIZE, f"{through >> 20} MiB went through our link"
    print(
        f"one host: {alone:.1f} s, six: {took:.1f} s, {took / alone:.2f} times; {through >> 20} MiB from us"
    )
    assert took < 2.5 * alone, f"{took:.1f} s for six, {alone:.1f} s for one"
    whole(six, NAMES, "chain")
    again = six.novactl.json("image", "push", "chain", "--to", "kvm2", "--to", "kvm5")
    assert [row["result"] for row in again] == ["unchanged", "unchanged"]


def test_a_host_that_dies_midway_is_left_out(six: Grounds, tmp_path: Path) -> None:
    sha256 = image(six, tmp_path, "dies", qcow2=True)
    victim = six.host("kvm3")
    with shaped(six, 60):
        running = six.novactl.popen("image", "push", "dies", "--all", "-o", "json")
        part = f"{BASE}/.{sha256}.part"
        wait_until(lambda: victim.run(["test", "-s", part]).returncode == 0, 60, "the chain to reach kvm3")
        victim.stop()
        out, err = running.communicate(timeout=240)
    try:
        assert running.returncode == 3, err
        ends = {row["target"]: row["result"] for row in json.loads(out)}
        assert ends == {**dict.fromkeys(NAMES, "done"), "kvm3": "failed"}, err
        assert "kvm4: image dies does not come from kvm3" in err
        whole(six, [name for name in NAMES if name != "kvm3"], "dies")
    finally:
        victim.start()
    wait_until(lambda: six.novactl("host", "check", "kvm3").code in (0, 10), 60, "kvm3 to be back")
    # the key and the job that it kept are audit's
    six.novactl("audit", "--heal", "--yes")
    # what was converted elsewhere comes as what was made of it, when the store has it no more
    (six.novactl.config / "images" / sha256).rename(tmp_path / "kept")
    rows = six.novactl.json("image", "push", "dies", "--to", "kvm1", "--to", "kvm3")
    assert [row["result"] for row in rows] == ["unchanged", "done"]
    (tmp_path / "kept").rename(six.novactl.config / "images" / sha256)
    whole(six, NAMES, "dies")


@pytest.mark.long
def test_a_slow_host_is_left_out(six: Grounds, tmp_path: Path) -> None:
    """kvm3 gets an eighth of what the others do: kvm4 does not wait for it."""
    image(six, tmp_path, "slow")
    port = ["nsenter", "--target", str(network.switch_pid(six.host("kvm3").lab)), "--net"]
    slow = ["tc", "qdisc", "add", "dev", "kvm3", "root", *"tbf rate 8mbit burst 64kb latency 200ms".split()]
    with shaped(six, 60):
        subprocess.run([*port, *slow], check=True)
        try:
            ended = six.novactl(
                "image", "push", "slow", *(w for n in (2, 3, 4) for w in ("--to", f"kvm{n}")), "-o", "json"
            )
        finally:
            subprocess.run([*port, "tc", "qdisc", "del", "dev", "kvm3", "root"], check=False)
    assert ended.code == 0, ended.err
    assert "kvm4: image slow does not come from kvm3: kvm3 is slow" in ended.err
    whole(six, ["kvm2", "kvm3", "kvm4"], "slow")
    ops = {row["target"]: row["operation"] for row in ended.json}
    at = {name: six.novactl.json("op", "show", ops[name])["finished_at"] for name in ("kvm3", "kvm4")}
    assert at["kvm4"] < at["kvm3"]


def test_what_packs_takes_fewer_bytes_on_the_wire(six: Grounds, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"".join(b"%064x" % n for n in range(SIZE // 64)))
    six.novactl.ok("image", "add", "text", "--file", str(path), "--format", "raw")
    before = received(six, "kvm2")
    six.novactl.ok("image", "push", "text", "--to", "kvm1", "--to", "kvm2")
    came = received(six, "kvm2") - before
    assert came < SIZE / 3, f"{came >> 20} of {SIZE >> 20} MiB"
    whole(six, ["kvm1", "kvm2"], "text")


def test_a_killed_push_is_resumed(six: Grounds, tmp_path: Path) -> None:
    sha256 = image(six, tmp_path, "killed")
    with shaped(six, 60):
        running = six.novactl.popen("image", "push", "killed", "--to", "kvm4", "--to", "kvm5", "--to", "kvm6")
        part = f"{BASE}/.{sha256}.part"
        wait_until(lambda: six.host("kvm6").run(["test", "-s", part]).returncode == 0, 60, "kvm6")
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        resumed = six.novactl("op", "resume", "--all", timeout=240)
    assert resumed.code == 0, resumed.err
    whole(six, ["kvm4", "kvm5", "kvm6"], "killed")


def test_a_damaged_base_file_is_found_and_comes_again(six: Grounds, tmp_path: Path) -> None:
    tiny = six.novactl.json("image", "show", "tiny")["sha256"]
    six.novactl.ok("image", "push", "tiny", "--to", "kvm1")
    host = six.host("kvm1")
    spoil = ["dd", f"of={BASE}/{tiny}", "bs=1", "count=1", "conv=notrunc", "status=none"]
    host.run(["sh", "-c", f"printf X | {' '.join(spoil)}"]).check_returncode()
    found = six.novactl("image", "verify", "tiny", "--on", "kvm1", "-o", "json")
    assert found.code == 10
    assert "corrupt" in {row["result"] for row in found.json}
    assert host.run(["test", "-e", f"{BASE}/{tiny}"]).returncode == 1
    made = six.novactl.json(
        "boot", "healed", "--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1"
    )
    assert made["status"] == "ACTIVE"
    six.novactl.ok("image", "verify", "tiny", "--on", "kvm1")
    # while a guest uses it, it stays where it is, and the next start brings it again
    host.run(["sh", "-c", f"printf X | {' '.join(spoil)}"]).check_returncode()
    assert six.novactl("image", "verify", "tiny", "--on", "kvm1").code == 10
    assert host.run(["test", "-e", f"{BASE}/{tiny}"]).returncode == 0
    six.novactl.ok("reboot", "--hard", "healed")
    six.novactl.ok("image", "verify", "tiny", "--on", "kvm1")
    six.novactl.ok("delete", "healed", "--yes")
    six.novactl.ok("image", "verify")
    six.novactl.ok("image", "prune", "--all", "--older-than", "30d", "--dry-run")


BOOT = ("--flavor", "tiny", "--network", "lan")
BOOTABLE = 40 * MIB


def bootable(grounds: Grounds, tmp_path: Path, name: str) -> str:
    """A qcow2 image that boots as tiny does, and whose disk is bytes that nothing packs; its SHA-256."""
    tiny = guests.tiny()
    disk, made = tmp_path / "disk", tmp_path / f"{name}.qcow2"
    disk.write_bytes(os.urandom(BOOTABLE))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, made], check=True)
    parts = ["--kernel", str(tiny.kernel), "--initrd", str(tiny.initrd), "--cmdline", tiny.cmdline]
    words = ["image", "add", name, "--file", str(made), "--format", "qcow2", *parts]
    return str(grounds.novactl.json(*words)["sha256"])


def steps_of(plan: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["summary"] for step in plan["steps"]}


def test_another_operator_boots_and_moves_what_hosts_have(
    six: Grounds, second: Grounds, tmp_path: Path
) -> None:
    bootable(six, tmp_path, "theirs")
    refused = second.novactl("boot", "no", *BOOT, "--image", "theirs", "-o", "json")
    assert (refused.code, refused.error["code"]) == (4, 4)
    assert "image theirs" in refused.error["message"]
    assert "neither the store here nor any host that answers has it" in refused.error["message"]
    assert second.novactl.json("list") == [] and second.novactl.json("op", "list", "--active") == []
    six.novactl.ok("image", "push", "theirs", "--to", "kvm1")
    words = ("boot", "guest", *BOOT, "--image", "theirs", "--host", "kvm2")
    shown = steps_of(second.novactl.json(*words, "--dry-run"))
    assert shown["pull-base"].endswith("is in the base files of kvm2, from kvm1")
    link = our_link(six)
    before, took = sent(link), received(six, "kvm2")
    made = second.novactl.json(*words)
    assert (made["status"], made["host"]) == ("ACTIVE", "kvm2")
    assert received(six, "kvm2") - took > BOOTABLE and sent(link) - before < BOOTABLE / 4
    for verb, target in (
        (("migrate", "guest", "--live"), "kvm3"),
        (("migrate", "guest", "--confirm"), "kvm4"),
    ):
        before = sent(link)
        (plan,) = second.novactl.json(*verb, "--host", target, "--dry-run")
        planned = steps_of(plan)
        assert planned["pull-base"].partition(", from ")[2] in NAMES
        second.novactl.ok(*verb, "--host", target)
        moved = second.novactl.json("show", "guest")
        assert (moved["status"], moved["host"]) == ("ACTIVE", target)
        assert sent(link) - before < BOOTABLE / 4, verb
    whole(six, ["kvm1", "kvm2", "kvm3", "kvm4"], "theirs")
    second.novactl.ok("rebuild", "guest", "--yes")
    second.novactl.ok("stop", "guest")
    second.novactl.ok("start", "guest")
    second.novactl.ok("delete", "guest", "--yes")
    assert six.leftovers() == {}


def test_images_are_shared_in_a_directory_of_a_host(six: Grounds, second: Grounds, tmp_path: Path) -> None:
    place = "host:kvm6:/var/lib/novactl/images"
    assert six.novactl.json("image", "store")["place"] is None
    for wrong in ("host:kvm6:srv", "host:kvm6:/a/../b", "host:kvm6:/a b", "host:kvm6:/$(id)", "nfs:kvm6:/a"):
        assert six.novactl("image", "store", wrong).code == 2, wrong
    assert six.novactl("image", "store", f"host:kvm6:{INSTANCES}/images").code == 5
    assert six.novactl("image", "store", "host:kvm9:/var/lib/novactl/images").code == 4
    assert six.novactl.json("image", "store", place)["place"] == place
    sha256 = bootable(six, tmp_path, "shared")
    assert place in second.novactl.json("image", "show", "shared")["locations"]
    host, fleet = six.host("kvm6"), host_says(six, "kvm6", "cat /var/lib/novactl/fleet")
    file = f"/var/lib/novactl/images/{fleet}/{sha256}"
    assert host_says(six, "kvm6", f"sha256sum {file}").split()[0] == sha256
    assert host_says(six, "kvm6", f"stat -c %a /var/lib/novactl/images/{fleet}") == "700"
    # an operator without the file, on a host without it
    words = ("boot", "guest", *BOOT, "--image", "shared", "--host", "kvm5")
    assert steps_of(second.novactl.json(*words, "--dry-run"))["pull-base"].endswith(f"kvm5, from {place}")
    link = our_link(six)
    before = sent(link)
    assert second.novactl.json(*words)["status"] == "ACTIVE"
    assert sent(link) - before < BOOTABLE / 4
    whole(six, ["kvm5"], "shared")
    # what is made of it; without the place it is made, and told
    assert place in second.novactl.json("snapshot", "guest", "snapped", "--root-only")["locations"]
    whole_file = second.novactl.json("image", "show", "snapped")["sha256"]
    assert host.run(["test", "-e", file.replace(sha256, whole_file)]).returncode == 0
    away = f"/var/lib/novactl/images/{fleet}"
    host.run(["mv", away, f"{away}.away"]).check_returncode()
    ended = second.novactl("snapshot", "guest", "alone", "--root-only")
    host.run(["mv", f"{away}.away", away]).check_returncode()
    assert ended.code == 1 and f"image alone is made, and not in {place}" in ended.err
    alone = second.novactl.json("image", "show", "alone")
    assert (alone["status"], place in alone["locations"]) == ("active", False)
    second.novactl.ok("shelve", "guest")
    assert place in second.novactl.json("image", "show", "guest-shelved")["locations"]
    for name in ("snapped", "alone"):
        second.novactl.ok("image", "delete", name, "--yes")
    # what was added before
    assert second.novactl("image", "push", "tiny", "--store").code == 4
    six.novactl.ok("image", "push", "tiny", "--store")
    again = six.novactl.json("image", "push", "tiny", "--store")
    assert [row["result"] for row in again] == ["unchanged"]
    assert "shared" in six.novactl.json("image", "store")["images"]
    assert six.novactl("host", "remove", "kvm6", "--yes").code == 5
    # damage is found, and mended
    spoil = f"printf X | dd of={file} bs=1 count=1 conv=notrunc status=none"
    host.run(["sh", "-c", spoil]).check_returncode()
    found = six.novactl("image", "verify", "shared", "-o", "json")
    assert found.code == 10
    assert (place, "corrupt") in {(row["host"], row["result"]) for row in found.json}
    assert host.run(["test", "-e", file]).returncode == 1
    six.novactl.ok("image", "push", "shared", "--store")
    six.novactl.ok("image", "verify", "shared")
    # deleted while a guest needs it, it stays; then it is pruned
    six.novactl.ok("image", "delete", "shared", "--yes")
    assert host.run(["test", "-e", file]).returncode == 0
    second.novactl.ok("delete", "guest", "--yes")
    rows = six.novactl.json("image", "prune", "--all", "--older-than", "0s", "--dry-run")
    assert (place, sha256) in {(row["host"], row["file"]) for row in rows}
    six.novactl.ok("image", "prune", "--all", "--older-than", "0s")
    assert host.run(["test", "-e", file]).returncode == 1
    gone = bootable(six, tmp_path, "gone")
    six.novactl.ok("image", "delete", "gone", "--yes")
    assert host.run(["test", "-e", f"/var/lib/novactl/images/{fleet}/{gone}"]).returncode == 1
    six.novactl.ok("image", "store", "--none")


def our_link(grounds: Grounds) -> str:
    """The device that leads from us to the lab."""
    route = ["ip", "-json", "route", "get", grounds.host("kvm1").address]
    return str(json.loads(subprocess.run(route, capture_output=True, check=True).stdout)[0]["dev"])


def host_says(grounds: Grounds, name: str, words: str) -> str:
    return grounds.host(name).run(["sh", "-c", words]).stdout.strip()


def test_images_are_shared_in_a_pool_of_rbd(six: Grounds, second: Grounds, tmp_path: Path) -> None:
    place, host = "rbd:kvm6:images", six.host("kvm6")
    assert six.novactl("image", "store", place).code == 1  # there is no Ceph yet
    ceph.start(host, tmp_path / "ceph")
    try:
        assert six.novactl("image", "store", "rbd:kvm6:others").code == 1
        six.novactl.ok("image", "store", place)
        sha256 = bootable(six, tmp_path, "pooled")
        assert place in six.novactl.json("image", "show", "pooled")["locations"]
        fleet = host_says(six, "kvm6", "cat /var/lib/novactl/fleet")
        exported = host_says(six, "kvm6", f"rbd export --no-progress images/{fleet}.{sha256} - | sha256sum")
        assert exported.split()[0] == sha256
        words = ("boot", "guest", *BOOT, "--image", "pooled", "--host", "kvm4")
        assert steps_of(second.novactl.json(*words, "--dry-run"))["pull-base"].endswith(f"from {place}")
        link = our_link(six)
        before = sent(link)
        assert second.novactl.json(*words)["status"] == "ACTIVE"
        assert sent(link) - before < BOOTABLE / 4
        whole(six, ["kvm4"], "pooled")
        six.novactl.ok("image", "verify", "pooled")
        second.novactl.ok("delete", "guest", "--yes")
        six.novactl.ok("image", "delete", "pooled", "--yes")
        assert sha256 not in host_says(six, "kvm6", "rbd ls images")
        assert host_says(six, "kvm6", "ls -A /var/lib/novactl/store/images | grep -v .lock") == ""
    finally:
        six.novactl.ok("image", "store", "--none")
        ceph.stop(host, tmp_path / "ceph")
