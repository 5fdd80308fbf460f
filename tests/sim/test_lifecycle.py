"""The daily verbs: in which states each may be done, what the host says against what the record says, locks,
and second copies that are behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.db import instances
from novactl.db.operations import events
from novactl.objects.instance import Instance
from novactl.objects.states import ALLOWED, THOUGH_LOCKED, PowerState, VmState, status
from tests.sim.actions import (
    boot,
    delete,
    describe,
    go_off,
    lay_bare,
    lock,
    pause,
    reboot,
    reset_state,
    resume,
    start,
    stop,
    suspend,
    unpause,
)
from tests.support.sim import Fault, SimDomain, SimFleet, audited, settled
from tests.support.toys import Died

HARD = "reboot --hard"
VERBS: dict[str, Callable[[], Any]] = {
    "start": start,
    "stop": lambda: stop(force=True),
    "reboot": reboot,
    HARD: lambda: reboot(hard=True),
    "pause": pause,
    "unpause": unpause,
    "suspend": suspend,
    "resume": resume,
    "lock": lock,
    "unlock": lambda: lock(locked=False),
    "set": lambda: describe(tags=["a"]),
    "unset": lambda: describe(no_tags=["b"], kind="unset"),
    "reset-state": lambda: reset_state("error"),
    "delete": delete,
}
WAYS: dict[VmState, tuple[Callable[[], Any], ...]] = {
    VmState.ACTIVE: (),
    VmState.STOPPED: (stop,),
    VmState.PAUSED: (pause,),
    VmState.SUSPENDED: (suspend,),
    VmState.ERROR: (lambda: reset_state("error"),),
}
ALREADY = {
    ("start", VmState.ACTIVE),
    ("unpause", VmState.ACTIVE),
    ("resume", VmState.ACTIVE),
    ("stop", VmState.STOPPED),
    ("pause", VmState.PAUSED),
    ("suspend", VmState.SUSPENDED),
    ("reset-state", VmState.ERROR),
    *(("unlock", state) for state in WAYS),
}
LEADS_TO = {
    "start": "ACTIVE",
    "stop": "SHUTOFF",
    "reboot": "ACTIVE",
    HARD: "ACTIVE",
    "pause": "PAUSED",
    "unpause": "ACTIVE",
    "suspend": "SUSPENDED",
    "resume": "ACTIVE",
    "reset-state": "ERROR",
}


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    made = SimFleet(quick)
    assert made.run(boot(tags=("b",))).code == 0
    yield made
    made.close()


def instance(fleet: SimFleet, name: str = "web1") -> Instance:
    with fleet.db.reading() as tx:
        return instances.find(tx, name, "default")


def domain(fleet: SimFleet) -> SimDomain:
    return fleet.hosts["kvm1"].domains[instance(fleet).uuid]


def told(fleet: SimFleet) -> list[tuple[str, str]]:
    """The events of the instance: what, and how it ended."""
    with fleet.db.reading() as tx:
        return [
            (row["action"], row["result"]) for row in events(tx, instances.find(tx, "web1", "default").uuid)
        ]


def is_behind(fleet: SimFleet) -> bool:
    uuid = instance(fleet).uuid
    with fleet.db.reading() as tx:
        return instances.copy_is_behind(tx, uuid)


# --- states ---


@pytest.mark.parametrize("state", WAYS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_in_a_state(fleet: SimFleet, verb: str, state: VmState) -> None:
    for way in WAYS[state]:
        assert fleet.run(way()).code == 0
    before, shown = told(fleet), status(state, None)
    outcome = fleet.run(VERBS[verb]())
    if (verb, state) in ALREADY:
        assert (outcome.result, outcome.code, outcome.operation) == ("unchanged", 0, None)
        assert told(fleet) == before
    elif state in ALLOWED[verb]:
        assert (outcome.result, outcome.code) == ("done", 0), outcome.error
        if verb != "delete":
            assert instance(fleet).status == LEADS_TO.get(verb, shown)
            assert told(fleet) == [*before, (verb.partition(" ")[0], "done")]
    else:
        assert (outcome.result, outcome.code) == ("failed", 5)
        assert outcome.error is not None
        assert outcome.error.message == f"web1: cannot {verb} an instance that is {shown}"
        allowed = ", ".join(sorted(status(each, None) for each in ALLOWED[verb]))
        assert outcome.error.hint == f"{verb} is possible from {allowed}"
        assert instance(fleet).status == shown
        assert told(fleet) == before
    assert settled(fleet) == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_locked_instance(fleet: SimFleet, verb: str) -> None:
    assert fleet.run(lock()).code == 0
    acted = len(fleet.hosts["kvm1"].acted)
    outcome = fleet.run(VERBS[verb]())
    if verb in THOUGH_LOCKED:
        assert outcome.code == 0
        return
    assert outcome.code == 5
    assert outcome.error is not None
    assert outcome.error.message == "web1: is locked"
    assert "novactl unlock web1" in outcome.error.hint
    assert len(fleet.hosts["kvm1"].acted) == acted
    assert fleet.run(lock(locked=False)).result == "done"
    assert [event for event in told(fleet) if event[0] != "boot"] == [("lock", "done"), ("unlock", "done")]


# --- what the host says ---


def test_a_guest_that_went_off_is_seen_by_a_verb_that_is_refused(fleet: SimFleet) -> None:
    go_off(fleet)
    with fleet.process() as process:
        assert process.operator.show([start()])[0]["steps"]
    assert instance(fleet).status == "ACTIVE"  # a dry run records nothing
    outcome = fleet.run(pause())
    assert outcome.code == 5
    assert str(outcome.error) == "web1: cannot pause an instance that is SHUTOFF"
    assert (instance(fleet).status, instance(fleet).power_state) == ("SHUTOFF", PowerState.SHUTDOWN)
    assert told(fleet)[-1] == ("power-seen", "shutoff")
    assert fleet.told[-1] == "web1: was active by the record, is shutdown on kvm1"
    assert settled(fleet) == []
    assert fleet.run(stop()).result == "done"  # from now on it is off because somebody wants it so
    assert fleet.run(stop()).result == "unchanged"


def test_a_guest_that_somebody_else_paused(fleet: SimFleet) -> None:
    domain(fleet).state = PowerState.PAUSED
    assert fleet.run(stop()).code == 5
    assert instance(fleet).status == "PAUSED"
    domain(fleet).state = PowerState.RUNNING
    assert fleet.run(unpause()).result == "done"  # the record is what is brought in line
    domain(fleet).state = PowerState.PAUSED
    assert fleet.run(pause()).result == "done"
    assert instance(fleet).status == "PAUSED"
    assert settled(fleet) == []


def test_what_is_seen_while_an_operation_works_is_not_recorded(fleet: SimFleet) -> None:
    fleet.faults.append(Fault("shutdown", "dies-after"))
    with pytest.raises(Died):
        fleet.run(stop())
    fleet.clock.sleep(10)
    before = instance(fleet)
    assert fleet.run(pause()).code == 5  # it is off by now, and a stop is half way
    assert instance(fleet) == before
    (left,) = fleet.active()
    fleet.take_over(left, back=False)
    assert settled(fleet) == []


def test_crashed_is_off(fleet: SimFleet) -> None:
    domain(fleet).state = PowerState.CRASHED
    assert fleet.run(suspend()).code == 5
    assert (instance(fleet).status, instance(fleet).power_state) == ("SHUTOFF", PowerState.CRASHED)
    assert fleet.run(start()).result == "done"
    assert settled(fleet) == []


def test_only_what_went_off_by_itself_was_interrupted(fleet: SimFleet) -> None:
    from novactl.actions.power import Start

    interrupted = Start(name="web1", project="default", interrupted=True)
    assert fleet.run(interrupted).result == "unchanged"
    go_off(fleet)
    assert fleet.run(pause()).code == 5  # seen, and so recorded
    assert fleet.run(describe(tags=["x"])).result == "done"
    assert fleet.run(interrupted).result == "done"
    assert fleet.run(stop()).result == "done"
    assert fleet.run(interrupted).result == "unchanged"
    assert instance(fleet).status == "SHUTOFF"


def test_a_soft_reboot_of_a_guest_that_went_off_is_a_hard_one(fleet: SimFleet) -> None:
    go_off(fleet)
    assert fleet.run(reboot()).result == "done"
    assert "shutdown" not in fleet.hosts["kvm1"].calls
    assert settled(fleet) == []


# --- what a hard reboot makes again, and what nothing does ---


@pytest.mark.parametrize("verb", ["start", HARD])
def test_all_but_the_disks_is_made_again(fleet: SimFleet, verb: str) -> None:
    if verb == "start":
        assert fleet.run(stop()).code == 0
    uuid, host = instance(fleet).uuid, fleet.hosts["kvm1"]
    lay_bare(fleet)
    del host.domains[uuid]
    assert fleet.run(VERBS[verb]()).code == 0
    assert host.bases and host.bridges == {"br0"}
    assert "libvirt.xml" in host.directories[uuid].files
    assert "bridge br0 was gone and is made again without an uplink" in fleet.told[-1]
    assert settled(fleet) == []


@pytest.mark.parametrize("verb", ["start", "reboot", HARD, "resume"])
def test_a_disk_is_never_made_again(fleet: SimFleet, verb: str) -> None:
    for way in {"start": (stop,), "resume": (suspend,)}.get(verb, ()):
        assert fleet.run(way()).code == 0
    host, uuid = fleet.hosts["kvm1"], instance(fleet).uuid
    disk, power = host.directories[uuid].files.pop("disk"), domain(fleet).state
    outcome = fleet.run(VERBS[verb]())
    assert outcome.code == 5
    assert str(outcome.error) == "web1: disk is missing on kvm1: what was on it is lost"
    assert domain(fleet).state is power
    host.directories[uuid].files["disk"] = disk
    assert settled(fleet) == []


# --- memory ---


def test_no_room_for_the_memory(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].room_to_save = 100 << 20
    outcome = fleet.run(suspend())
    assert (outcome.code, outcome.operation) == (5, None)
    assert "its memory may take 576 MiB on kvm1, where libvirt saves 100 MiB are free" in str(outcome.error)
    assert settled(fleet) == []


def test_room_that_goes_after_the_check(fleet: SimFleet) -> None:
    host = fleet.hosts["kvm1"]

    class Filling:
        def reach(self, point: str, record: Any) -> None:
            host.room_to_save = 100 << 20

    outcome = fleet.run(suspend(), failpoints=Filling())
    assert outcome.code == 1
    assert "no space left in /save: 100 MiB free, its memory may take 576" in str(outcome.error)
    assert instance(fleet).status == "ACTIVE"
    assert settled(fleet) == []


def test_another_qemu(fleet: SimFleet) -> None:
    assert fleet.run(suspend()).code == 0
    fleet.hosts["kvm1"].qemu = "7.2.99"
    with fleet.process() as process:
        assert process.operator.show([resume()])[0]["steps"]  # a patch level is no other QEMU
    fleet.hosts["kvm1"].qemu = "8.0.1"
    outcome = fleet.run(resume())
    assert outcome.code == 5
    assert str(outcome.error) == "web1: its memory was saved by QEMU 7.2.17, kvm1 has 8.0.1"
    assert outcome.error is not None
    assert "novactl resume web1 --force" in outcome.error.hint
    assert "novactl reboot web1 --hard drops it" in outcome.error.hint
    assert instance(fleet).status == "SUSPENDED"
    assert settled(fleet) == []
    assert fleet.run(resume(force=True)).result == "done"
    assert settled(fleet) == []


def test_saved_memory_that_is_gone(fleet: SimFleet) -> None:
    assert fleet.run(suspend()).code == 0
    domain(fleet).saved = False
    del fleet.hosts["kvm1"].directories[instance(fleet).uuid].files["saved-by"]
    (found,) = audited(fleet)
    assert "the record says suspended (shutdown), kvm1 says shutdown, its saved memory is gone" in found
    assert fleet.run(resume()).code == 5
    assert domain(fleet).state is PowerState.SHUTDOWN  # never started as if nothing had been
    assert instance(fleet).status == "SHUTOFF"
    assert settled(fleet) == []


def test_the_host_is_switched_off_while_it_saves(fleet: SimFleet) -> None:
    """The memory is lost with the power; what is recorded is found out by the next verb."""
    fleet.faults.append(Fault("job_wait", "reboots"))
    outcome = fleet.run(suspend())
    assert outcome.code == 1
    assert "domain is not running" in str(outcome.error)
    assert fleet.run(pause()).code == 5
    assert instance(fleet).status == "SHUTOFF"
    assert fleet.run(start()).result == "done"
    assert settled(fleet) == []


def test_a_save_that_was_over_when_it_was_undone(fleet: SimFleet) -> None:
    """The process died; by the time of the rollback the guest is saved and off: it runs on."""
    fleet.faults.append(Fault("job_start", "dies-after"))
    with pytest.raises(Died):
        fleet.run(suspend())
    fleet.clock.sleep(60)
    fleet.hosts["kvm1"].tick(fleet.clock)
    assert domain(fleet).saved
    (left,) = fleet.active()
    assert fleet.take_over(left, back=True).state == "undone"
    assert (domain(fleet).state, domain(fleet).saved) == (PowerState.RUNNING, False)
    assert instance(fleet).status == "ACTIVE"
    assert settled(fleet) == []


# --- records and their second copies ---


def test_another_name_metadata_and_tags(fleet: SimFleet) -> None:
    assert fleet.run(boot("web2")).code == 0
    taken = fleet.run(describe(new_name="web2", tags=["x"]))
    assert (taken.code, str(taken.error)) == (5, "instance web2 exists already")
    assert instance(fleet).tags == ("b",)
    done = fleet.run(describe(new_name="db1", metadata={"k": "v"}, tags=["a"], no_tags=["b"]))
    assert done.result == "done"
    found = instance(fleet, "db1")
    assert (found.metadata, found.tags) == ({"k": "v"}, ("a",))
    assert '"name": "db1"' in fleet.hosts["kvm1"].domains[found.uuid].xml
    assert fleet.run(describe("db1", metadata={"k": "v"}, no_tags=["never"])).result == "unchanged"
    assert fleet.run(boot("web1")).code == 0  # the name is free again
    assert fleet.run(describe(metadata={f"k{n}": "v" for n in range(129)})).code == 5
    for name in ("db1", "web1", "web2"):
        assert fleet.run(delete(name)).code == 0


@pytest.mark.parametrize("verb", ["stop", "pause", "suspend", HARD, "reboot", "set"])
def test_a_copy_that_is_behind_is_written_by_the_next_operation(fleet: SimFleet, verb: str) -> None:
    host = fleet.hosts["kvm1"]
    host.up = False
    assert fleet.run(describe(metadata={"late": "yes"})).result == "done"
    host.up = True
    assert "the second copy of its record is behind (kvm1: no answer in time)" in fleet.told[-1]
    assert is_behind(fleet)
    assert "late" not in domain(fleet).xml
    assert settled(fleet) == []  # and that is no drift
    assert fleet.run(VERBS[verb]()).result == "done"
    assert "late" in domain(fleet).xml
    assert not is_behind(fleet)
    assert settled(fleet) == []


def test_the_copy_of_a_suspended_guest_is_written_and_its_memory_kept(fleet: SimFleet) -> None:
    assert fleet.run(suspend()).code == 0
    assert fleet.run(describe(tags=["late"])).result == "done"
    assert "late" in domain(fleet).xml
    assert domain(fleet).saved
    assert fleet.run(resume()).result == "done"
    assert settled(fleet) == []


def test_deleting_forgets_that_a_copy_was_behind(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].up = False
    assert fleet.run(describe(tags=["late"])).result == "done"
    fleet.hosts["kvm1"].up = True
    assert fleet.run(delete()).code == 0
    with fleet.db.reading() as tx:
        assert tx.all("SELECT name FROM meta WHERE name LIKE 'behind %'") == []
