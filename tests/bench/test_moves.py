"""A guest between two hosts, by novactl and by hand, taking turns."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from tests.bench import limits
from tests.bench.harness import Results, take_turns
from tests.bench.moves import RSYNC, Pair, filled
from tests.bench.test_instances import start_up
from tests.lab.conftest import Grounds, enrol
from tests.lab.support import console_until, last
from tests.support.command import Command

DISK_MIB, MEMORY_MIB, COLD_MIB = 128, 128, 600
NOISE = f"#!/bin/sh\nhead -c {MEMORY_MIB}m /dev/urandom >/tmp/noise\n"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    name = f"m{os.getpid() % 1000000}"
    lab.down(name)
    fleet = lab.up(name, 2)
    try:
        yield enrol(fleet, tmp_path_factory.mktemp("moves"))
    finally:
        lab.down(name)


@pytest.fixture
def pair(ground: Grounds, tmp_path: Path) -> Iterator[Pair]:
    """A guest with memory and a disk of its own to carry; both hosts have the image."""
    novactl = ground.novactl
    noise = tmp_path / "noise"
    noise.write_text(NOISE)
    novactl.ok("flavor", "create", "carrier", "--vcpus", "1", "--memory", "384", "--disk", "1")
    where = ["--image", "tiny", "--flavor", "carrier", "--network", "lan"]
    novactl.ok("boot", "there", *where, "--host", "kvm2")
    novactl.ok("delete", "there", "--yes")
    guest: dict[str, Any] = novactl.json(
        "boot", "carried", *where, "--host", "kvm1", "--user-data", str(noise)
    )
    made = Pair(ground, guest, novactl.json("image", "show", "tiny")["sha256"])
    made.trust()
    yield made
    novactl.ok("delete", "carried", "--yes")
    novactl.ok("flavor", "delete", "carrier", "--yes")
    assert ground.leftovers() == {}


def steps(novactl: Command) -> dict[str, float]:
    """Seconds of each step of the guest's last operation that acted on a host."""
    found = {}
    op = last(novactl, "carried")
    for step in op["steps"]:
        if step["started_at"] and step["finished_at"]:
            began, ended = (datetime.fromisoformat(step[name]) for name in ("started_at", "finished_at"))
            found[step["name"]] = round((ended - began).total_seconds(), 3)
    return found


def test_live(results: Results, pair: Pair, empty: Command) -> None:
    novactl, guest = pair.grounds.novactl, pair.guest
    novactl.ok("stop", "carried", "--force")
    filled(pair.grounds, guest, DISK_MIB)
    novactl.ok("start", "carried")
    console_until(pair.grounds, guest, "tiny: ready", 120)
    startup = "start-up, with a move"
    went: dict[str, float] = {}

    def live() -> float:
        seconds = pair.live()
        went.update(steps(novactl))
        return seconds

    runs = {
        "live migration": live,
        "raw live migration": pair.raw_live,
        startup: lambda: start_up(empty),
    }
    take_turns(results, results.repeat(9, 3), runs)
    results.notes["where a live migration goes"] = went
    results.check_ratio("live", "live migration", "raw live migration", limits.LIVE_OF_RAW, startup)
    ours, raw = pair.gap("novactl"), pair.gap("raw")
    what = f"silence of the guest {ours:.3f} s, by hand {raw:.3f} s"
    results.check("live downtime", what, ours - raw, limits.DOWNTIME_MORE)
    results.verdict("live", "live downtime")


def test_cold(results: Results, pair: Pair) -> None:
    """The copying alone: what else a cold migration does has no counterpart."""
    novactl = pair.grounds.novactl
    novactl.ok("stop", "carried", "--force")
    filled(pair.grounds, pair.guest, COLD_MIB)

    def copied() -> float:
        pair.by_novactl("--confirm")
        return steps(novactl)["copy-disk"]

    def streamed() -> float:
        return pair.streamed()

    def rsynced() -> float:
        return pair.streamed(RSYNC)

    runs = {"copy of a disk": copied, "plain ssh": streamed, "rsync": rsynced}
    take_turns(results, results.repeat(9, 3), runs)
    ours, plain, rsync = (results.median(name) for name in runs)
    for name, other, seconds in (("cold copy", "plain ssh", plain), ("cold copy by rsync's", "rsync", rsync)):
        what = f"copy of a disk {ours:.3f} s / {other} {seconds:.3f} s, of {COLD_MIB} MiB"
        results.check(name, what, ours / seconds, limits.COPY_OF_PLAIN, "times")
    results.verdict("cold copy", "cold copy by rsync's")
