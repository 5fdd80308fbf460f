"""A live snapshot by novactl, and by hand: virsh blockcopy, qemu-img convert, and the file over ssh."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl import lab
from novactl.lab import guests
from tests.bench import limits
from tests.bench.harness import Results, take_turns, timed
from tests.bench.moves import INSTANCES, filled
from tests.bench.test_instances import start_up
from tests.lab.conftest import Grounds, enrol
from tests.lab.support import console_until, last, step
from tests.support.command import NOVACTL, Command

DISK_MIB = 200

BARE = f"""set -e
cd {INSTANCES}/$1
base=$(qemu-img info -U -f qcow2 disk | sed -n 's/^backing file: \\([^ ]*\\).*/\\1/p')
qemu-img create -q -f qcow2 -F raw -b "$base" bare.delta $2
virsh -q blockcopy "$1" vda --dest "$PWD/bare.delta" --format qcow2 --shallow --reuse-external \\
  --transient-job --wait >&2
virsh -q domfsfreeze "$1" >&2
virsh -q blockjob "$1" vda --abort >&2
virsh -q domfsthaw "$1" >&2
qemu-img convert -f qcow2 -O raw bare.delta bare.raw
rm bare.delta
cat bare.raw
rm bare.raw
"""
"""sh on the host: uuid, size of the disk in bytes. stdout is the image."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    name = f"n{os.getpid() % 1000000}"
    lab.down(name)
    try:
        yield enrol(lab.up(name, 1), tmp_path_factory.mktemp("snapshots"))
    finally:
        lab.down(name)


def test_live(results: Results, ground: Grounds, empty: Command, tmp_path: Path) -> None:
    novactl, tiny, size = ground.novactl, guests.agent(), (DISK_MIB + 16) << 20
    disk = tmp_path / "disk"
    disk.write_bytes(tiny.disk.read_bytes())
    os.truncate(disk, size)
    words = ["--file", str(disk), "--format", "raw", "--kernel", str(tiny.kernel)]
    novactl.ok("image", "add", "own", *words, "--initrd", str(tiny.initrd), "--cmdline", tiny.cmdline)
    novactl.ok("flavor", "create", "own", "--vcpus", "1", "--memory", "128", "--disk", "0")
    guest = novactl.json("boot", "taken", "--flavor", "own", "--image", "own")
    console_until(ground, guest, "tiny: agent", 90)
    novactl.ok("stop", "taken", "--force")
    filled(ground, guest, DISK_MIB, at_mib=16)
    novactl.ok("start", "taken")
    time.sleep(1)
    console_until(ground, guest, "boot count 2", 90)
    time.sleep(5)
    frozen: list[float] = []
    host = ground.host("kvm1")

    def by_novactl() -> float:
        argv = [NOVACTL, "snapshot", "taken", "ours", "--quiesce"]
        seconds = timed(argv, novactl.environment)[0]
        frozen.append(step(last(novactl, "taken"), "copy-live")["result"]["frozen"] / 1000)
        novactl.ok("image", "delete", "ours", "--yes")
        return seconds

    def by_hand() -> float:
        """The image is hashed as it comes, and synced: what the store does for novactl."""
        ssh = ["ssh", "-i", str(ground.fleet.identity), "-o", "StrictHostKeyChecking=no"]
        ssh += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"root@{host.address}"]
        there = f"set -- {guest['uuid']} {size}\n{BARE}"
        came = tmp_path / "came"
        began = time.perf_counter()
        with came.open("wb") as file:
            subprocess.run([*ssh, "sh"], input=there.encode(), stdout=file, check=True)
        subprocess.run(["sync", str(came)], check=True)
        subprocess.run(["sha256sum", str(came)], stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - began
        assert came.stat().st_size == size
        return seconds

    startup = "start-up, with a snapshot"
    runs = {
        "live snapshot": by_novactl,
        "raw live snapshot": by_hand,
        startup: lambda: start_up(empty),
    }
    take_turns(results, results.repeat(7, 3), runs)
    results.check_ratio(
        "live snapshot", "live snapshot", "raw live snapshot", limits.SNAPSHOT_OF_RAW, startup
    )
    results.check("frozen", "longest that the guest was frozen", max(frozen), limits.FROZEN_SECONDS)
    results.notes["where a live snapshot goes"] = {
        one["name"]: [one["started_at"], one["finished_at"]] for one in last(novactl, "taken")["steps"]
    }
    print(results.notes["where a live snapshot goes"])
    results.verdict("live snapshot", "frozen")
