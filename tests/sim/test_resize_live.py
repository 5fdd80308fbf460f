"""resize --live: what a guest gets now, what at its next boot, and what its host counts meanwhile."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions.outcome import Outcome
from novactl.db import hosts, instances, projects
from tests.sim.actions import boot, confirm, live_migrate, migrate, reboot, resize, start, stop
from tests.support.sim import SimDomain, SimFleet, settled


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    (quick / "fleet").mkdir()
    made = SimFleet(quick / "fleet")
    made.limit()
    yield made
    made.close()


def booted(fleet: SimFleet, flavor: str) -> SimDomain:
    assert fleet.run(boot(flavor=flavor, host="kvm1")).code == 0
    return next(iter(fleet.hosts["kvm1"].domains.values()))


def held(fleet: SimFleet) -> tuple[int, int]:
    """vcpus and MiB that kvm1 has given."""
    with fleet.db.reading() as tx:
        host = hosts.get(tx, "kvm1")
    return host.vcpus_used, host.memory_mib_used


def counted(fleet: SimFleet) -> tuple[int, int]:
    """The same that the project uses."""
    with fleet.db.reading() as tx:
        found = projects.get(tx, "default")
    return found.cores_used, found.memory_mib_used


def recorded(fleet: SimFleet) -> tuple[str, str]:
    with fleet.db.reading() as tx:
        (one,) = instances.everything(tx)
    return one.flavor.name, one.status


def live(fleet: SimFleet, flavor: str, **values: Any) -> Outcome:
    return fleet.run(resize(flavor, live=True, **values))


def test_processors_now_and_memory_at_the_next_boot(fleet: SimFleet) -> None:
    domain = booted(fleet, "lean")
    outcome = live(fleet, "wide")
    assert outcome.takes_effect == {"vcpus": "now", "memory": "next boot"}
    assert domain.has is not None and (domain.has.vcpus, domain.has.memory_mib) == (4, 256)
    assert recorded(fleet) == ("wide", "ACTIVE") and held(fleet) == counted(fleet) == (4, 512)
    assert "web1: 4 vcpus now" in fleet.told
    assert any("512 MiB at its next boot" in line for line in fleet.told)
    assert fleet.run(reboot()).code == 0
    assert domain.has is not None and domain.has.memory_mib == 512
    assert settled(fleet) == []


@pytest.mark.parametrize("verbs", [[reboot], [stop], [lambda: reboot(hard=True)], [stop, start]])
def test_what_the_guest_keeps_stays_claimed_until_it_was_off(fleet: SimFleet, verbs: list[Any]) -> None:
    domain = booted(fleet, "wide")
    domain.balloon = False
    outcome = live(fleet, "lean")
    assert outcome.takes_effect == {"vcpus": "next boot", "memory": "next boot"}
    assert held(fleet) == (4, 512) and counted(fleet) == (1, 256)
    again = fleet.run(live_migrate())
    assert again.code == 5 and "until its next boot" in str(again.error)
    for verb in verbs:
        assert fleet.run(verb()).code == 0
    assert held(fleet) == counted(fleet) == (1, 256)
    assert settled(fleet) == []


def test_memory_that_is_given_back_is_free_and_may_come_back(fleet: SimFleet) -> None:
    domain = booted(fleet, "small")
    assert live(fleet, "lean").takes_effect == {"memory": "now"}
    assert domain.has is not None and domain.has.memory_mib == 256 and held(fleet) == (1, 256)
    assert live(fleet, "small").takes_effect == {"memory": "now"}
    assert domain.has.memory_mib == 512 and held(fleet) == (1, 512)
    assert fleet.run(live_migrate()).code == 0
    assert settled(fleet) == []


def test_one_that_waits_is_resized_again(fleet: SimFleet) -> None:
    booted(fleet, "wide").balloon = False
    assert live(fleet, "lean").code == 0
    assert live(fleet, "wide").takes_effect == {"vcpus": "now", "memory": "now"}  # it still has them
    assert held(fleet) == (4, 512) and fleet.run(live_migrate()).code == 0
    assert settled(fleet) == []


def test_one_that_waits_is_moved_cold(fleet: SimFleet) -> None:
    """Its guest is off on the way."""
    booted(fleet, "wide").balloon = False
    assert live(fleet, "lean").code == 0
    assert fleet.run(migrate(host="kvm2")).code == 0
    assert held(fleet) == (4, 512)
    assert fleet.run(confirm()).code == 0
    assert held(fleet) == (0, 0) and settled(fleet) == []


def test_it_is_refused(fleet: SimFleet) -> None:
    booted(fleet, "small")
    with fleet.db.writing() as tx:
        tx.run("UPDATE hosts SET memory_mib = 600 WHERE name = 'kvm1'")
    for flavor, values, code, says in (
        ("large", {}, 5, "has other disks"),
        ("lean", {"host": "kvm2"}, 5, "is on kvm1, and --live keeps it there"),
        ("small", {}, 5, "already"),
        ("none", {}, 4, "none"),
        ("lean", {"confirm": True}, 2, "nothing to confirm"),
    ):
        outcome = live(fleet, flavor, **values)
        assert outcome.code == code and says in str(outcome.error), flavor
    assert recorded(fleet) == ("small", "ACTIVE") and held(fleet) == (1, 512) and fleet.active() == []


def test_no_room(fleet: SimFleet) -> None:
    booted(fleet, "lean")
    with fleet.db.writing() as tx:
        tx.run("UPDATE hosts SET memory_mib = 500, reserved_memory_mib = 0 WHERE name = 'kvm1'")
    outcome = live(fleet, "wide")
    assert outcome.code == 5 and "cannot be resized on kvm1" in str(outcome.error)
    assert held(fleet) == (1, 256) and counted(fleet) == (1, 256)


def test_the_plan_says_which(fleet: SimFleet) -> None:
    booted(fleet, "lean")
    with fleet.process() as process:
        (plan,) = process.operator.show([resize("wide", live=True)])
    said = {item["item"]: item["message"] for item in plan["preflight"]}
    assert said["vcpus"] == "1 to 4 now"
    assert said["memory"] == "256 to 512 MiB at its next boot: its domain was started with 256 MiB"
    assert plan["changes"]["vcpus"] == [1, 4] and plan["changes"]["memory_mib"] == [256, 512]
    summaries = [step["summary"] for step in plan["steps"]]
    assert "the guest has 4 vcpus now" in summaries
