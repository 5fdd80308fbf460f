"""Images: a boot whose host has not got one, one that goes to six hosts, a look at a large one."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl import lab
from novactl.images.inspector import inspect
from novactl.lab import guests
from tests.bench import limits
from tests.bench.harness import Results, take_turns, timed
from tests.bench.moves import INSTANCES
from tests.lab.conftest import Grounds, enrol
from tests.lab.test_images import NAMES, image, sent, shaped
from tests.support.command import NOVACTL

ALLOCATED_MIB = 200
MBIT = 100


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    name = f"g{os.getpid() % 1000000}"
    lab.down(name)
    try:
        yield enrol(lab.up(name, len(NAMES)), tmp_path_factory.mktemp("images"))
    finally:
        lab.down(name)


def test_inspector(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "large.qcow2"
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", str(path), "100G"]
    subprocess.run(made, check=True)
    for _ in range(results.repeat(9, 3)):
        began = time.perf_counter()
        inspect(path, "qcow2")
        results.add("inspector", time.perf_counter() - began)
    what = "a look at a qcow2 of 100 GiB, all of its tables there"
    results.check_time("inspector", limits.INSPECT_SECONDS, what)
    results.verdict("inspector")


def test_boot_uncached(results: Results, six: Grounds, tmp_path: Path) -> None:
    """What a boot takes longer when its host has not got the image."""
    novactl, host, tiny = six.novactl, six.host("kvm1"), guests.tiny()
    raw, path = tmp_path / "raw", tmp_path / "image.qcow2"
    raw.write_bytes(tiny.disk.read_bytes())
    with raw.open("r+b") as file:
        file.truncate(1 << 30)
        file.seek(64 << 20)
        file.write(os.urandom(ALLOCATED_MIB << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    words = ["--file", str(path), "--format", "qcow2", "--kernel", str(tiny.kernel)]
    added = ["image", "add", "big", *words, "--initrd", str(tiny.initrd), "--cmdline", tiny.cmdline]
    sha256 = novactl.json(*added)["sha256"]
    booted = [NOVACTL, "boot", "big1", "--flavor", "tiny", "--image", "big", "--host", "kvm1"]

    def boot() -> float:
        seconds = timed(booted, novactl.environment)[0]
        novactl.ok("delete", "big1", "--yes")
        return seconds

    def uncached() -> float:
        assert host.run(["sh", "-c", f"rm {INSTANCES}/_base/{sha256}*"]).returncode == 0
        return boot()

    def by_hand() -> float:
        ssh = ["-q", "-i", str(six.fleet.identity), "-o", "StrictHostKeyChecking=no"]
        ssh += ["-o", "UserKnownHostsFile=/dev/null"]
        there = f"{INSTANCES}/by-hand"
        convert = f"qemu-img convert -f qcow2 -O raw {there} {there}.raw && sync {there}.raw"
        began = time.perf_counter()
        subprocess.run(["scp", *ssh, str(path), f"root@{host.address}:{there}"], check=True)
        assert host.run(["sh", "-c", convert]).returncode == 0
        seconds = time.perf_counter() - began
        assert host.run(["sh", "-c", f"rm {there} {there}.raw"]).returncode == 0
        return seconds

    boot()
    runs = {"boot, image not there": uncached, "boot, image there": boot, "scp and qemu-img convert": by_hand}
    take_turns(results, results.repeat(9, 3), runs)
    ours, startup, raw = runs
    results.check_ratio("boot uncached", ours, raw, limits.UNCACHED_OF_SCP, startup=startup)
    results.verdict("boot uncached")


def test_push(results: Results, six: Grounds, tmp_path: Path) -> None:
    """Every link as slow; to each host the image comes from the one before it."""
    size = results.repeat(256, 64) << 20
    for turn in range(results.repeat(3, 1)):
        one, chain = f"one{turn}", f"chain{turn}"
        image(six, tmp_path, one, size=size)
        image(six, tmp_path, chain, size=size)
        with shaped(six, MBIT) as link:
            push = [NOVACTL, "image", "push"]
            results.add("push to one host", timed([*push, one, "--to", "kvm1"], six.novactl.environment)[0])
            before = sent(link)
            results.add("push to six hosts", timed([*push, chain, "--all"], six.novactl.environment)[0])
            assert sent(link) - before < 1.3 * size
        six.novactl.ok("image", "delete", one, "--yes")
        six.novactl.ok("image", "delete", chain, "--yes")
    many, one_by_one = results.median("push to six hosts"), 6 * results.median("push to one host")
    what = f"six hosts {many:.1f} s, of {size >> 20} MiB by {MBIT} Mbit/s; one by one {one_by_one:.1f} s"
    results.check("push", what, many / (one_by_one / 6), limits.PUSH_TO_SIX, "times one transfer")
    results.verdict("push")
