"""A host that lost its power: what ran comes back by one command, and nothing else does."""

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import console_until, nothing_left

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1"]


def test_what_ran_comes_back_and_what_was_stopped_stays_off(grounds: Grounds, name):
    novactl, host = grounds.novactl, grounds.host("kvm1")
    one, two, off = sorted([name(), name(), name()])
    made = {each: novactl.json("boot", each, *TINY) for each in (one, two, off)}
    elsewhere = novactl.json("boot", name(), "--flavor", "tiny", "--image", "tiny", "--host", "kvm2")
    for each in made.values():
        console_until(grounds, each, "tiny: ready")
    novactl.ok("stop", off)
    host.stop()
    host.start()

    def running() -> set[str]:
        return {n for n, each in made.items() if grounds.state("kvm1", each["uuid"]) == "running"}

    assert running() == set()  # libvirt starts none by itself
    listed = {i["name"]: i["status"] for i in novactl.json("list", "--on", "kvm1")}
    assert listed == {one: "ACTIVE", two: "ACTIVE", off: "SHUTOFF"}
    started = novactl.json("start", "--on", "kvm1", "--interrupted")
    ended = {row["target"]: row["result"] for row in started}
    assert ended == {one: "done", two: "done", off: "unchanged"}
    assert running() == {one, two}
    for each in (made[one], made[two]):
        console_until(grounds, each, "tiny: boot count 2", 90)
        novactl.ok("wait", each["name"], "ssh", "--timeout", "60")  # by its address
        info = host.run(["virsh", "dominfo", each["uuid"]]).stdout
        assert "disable" in next(line for line in info.splitlines() if line.startswith("Autostart"))

    again = novactl.json("start", "--all", "--interrupted")  # also those of hosts that were never off
    assert {(row["target"], row["result"]) for row in again} == {
        (each, "unchanged") for each in (one, two, off, elsewhere["name"])
    }
    assert running() == {one, two}
    novactl.ok("delete", *made, elsewhere["name"], "--yes")
    nothing_left(grounds)
