"""A host is emptied over a slow link, one guest at a time and two at a time."""

import os
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from novactl import lab
from tests.bench import limits
from tests.bench.harness import Results
from tests.bench.moves import filled
from tests.lab.conftest import Grounds, enrol
from tests.lab.support import last

MIBPS, DISK_MIB = 8, 100
SHORTEST = 10.0  # seconds that each move takes at least, for start-up not to matter


@pytest.fixture
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    name = f"d{os.getpid() % 1000000}"
    lab.down(name)
    fleet = lab.up(name, 2)
    try:
        yield enrol(fleet, tmp_path_factory.mktemp("drain"))
    finally:
        lab.down(name)


def moves(grounds: Grounds, names: list[str]) -> list[float]:
    """Seconds that each guest's last move took."""
    found = []
    for name in names:
        op = last(grounds.novactl, name)
        assert op["kind"] == "live-migrate"
        began, ended = (datetime.fromisoformat(op[word]) for word in ("started_at", "finished_at"))
        found.append((ended - began).total_seconds())
    return found


def test_two_at_a_time(results: Results, ground: Grounds) -> None:
    novactl = ground.novactl
    names = [f"left{number}" for number in range(results.repeat(6, 4))]
    for name in names:
        where = ["--image", "tiny", "--flavor", "tiny", "--network", "lan", "--host", "kvm1"]
        guest = novactl.json("boot", name, *where)
        novactl.ok("stop", name, "--force")
        filled(ground, guest, DISK_MIB)
        novactl.ok("start", name)
    for parallel in (1, 2):
        began = time.perf_counter()
        words = ["--max-parallel", str(parallel), "--bandwidth", str(MIBPS)]
        novactl.ok("host", "drain", "kvm1", *words, "--yes", timeout=300)
        results.add(f"drain, {parallel} at a time", time.perf_counter() - began)
        assert ground.domains("kvm1") == []
        assert min(moves(ground, names)) >= SHORTEST
        novactl.ok("host", "undrain", "kvm1", "--bring-back", timeout=300)
        assert len(ground.domains("kvm1")) == len(names)
    one, two = (results.median(f"drain, {parallel} at a time") for parallel in (1, 2))
    what = f"{len(names)} guests: two at a time {two:.1f} s / one at a time {one:.1f} s"
    results.check("drain", what, two / one, limits.DRAIN_BY_TWO, "times")
    results.verdict("drain")
