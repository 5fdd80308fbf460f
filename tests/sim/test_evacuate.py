"""Evacuations that are refused, and what audit makes of a host that is on again."""

import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import recover
from novactl.actions.fencing import Proof
from novactl.db import hosts, instances, operations, projects
from novactl.engine.operation import OpState
from novactl.errors import OperationIncomplete
from novactl.objects.states import PowerState, VmState
from tests.sim.actions import (
    boot,
    confirm,
    delete,
    evacuate,
    heal,
    live_ends,
    live_migrate,
    lose_host,
    lose_sharing_host,
    migrate,
    resize,
    revert,
    share,
    start,
    stop,
)
from tests.sim.effort import FULL
from tests.sim.stage import nth
from tests.support.sim import Fault, SimFleet, audited, settled
from tests.support.sim_live import Ends
from tests.support.toys import Died


def uuid_of(fleet: SimFleet) -> str:
    (instance,) = fleet.db.read(instances.everything)
    return instance.uuid


def made_directory(fleet: SimFleet) -> Path:
    return Path(tempfile.mkdtemp(dir=fleet.directory))


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    made = SimFleet(quick)
    made.limit()
    assert made.run(boot()).code == 0
    yield made
    made.close()


def state(fleet: SimFleet) -> str:
    with fleet.db.reading() as tx:
        return hosts.get(tx, "kvm1").state


def test_nothing_is_proven(fleet: SimFleet) -> None:
    outcome = fleet.run(evacuate())
    assert outcome.code == 5 and outcome.error is not None
    assert "nothing proves that kvm1 is down" in outcome.error.message
    assert settled(fleet) == []


def test_a_held_disk_is_a_veto(fleet: SimFleet) -> None:
    lose_sharing_host(fleet)
    (directory,) = fleet.hosts["kvm1"].directories.values()
    directory.files["held"] = b"yes"
    outcome = fleet.run(evacuate())
    assert outcome.code == 5 and outcome.error is not None
    assert "disk is held open: its guest runs somewhere" in outcome.error.message
    del directory.files["held"]
    assert settled(fleet) == []
    assert fleet.run(evacuate()).code == 0


def test_a_host_that_returns_is_cleaned_and_then_given_instances(fleet: SimFleet) -> None:
    lose_host(fleet)
    assert fleet.run(evacuate()).code == 0
    fleet.hosts["kvm1"].up = True
    assert state(fleet) == "fenced"
    assert any("stale-copy" in line for line in audited(fleet))
    assert fleet.run(heal()).result == "done"
    assert fleet.hosts["kvm1"].everything() == set()
    assert state(fleet) == "fenced"
    assert fleet.run(heal()).result == "done"
    assert state(fleet) == "up"
    assert settled(fleet) == []


def test_a_guest_that_still_runs_there_keeps_it_fenced(fleet: SimFleet) -> None:
    lose_host(fleet)
    assert fleet.run(evacuate()).code == 0
    first = fleet.hosts["kvm1"]
    first.up = True
    (domain,) = first.domains.values()
    domain.state = PowerState.RUNNING
    assert any("runs-twice" in line for line in audited(fleet))
    assert fleet.run(heal()).result == "unchanged"
    assert (state(fleet), domain.state) == ("fenced", PowerState.RUNNING)


def test_a_returned_host_that_shares_its_storage_loses_its_domain_and_no_file(fleet: SimFleet) -> None:
    lose_sharing_host(fleet)
    assert fleet.run(evacuate()).code == 0
    first = fleet.hosts["kvm1"]
    first.up = True
    kept = {uuid: set(directory.files) for uuid, directory in first.directories.items()}
    while fleet.run(heal()).result == "done":
        pass
    assert first.domains == {} and state(fleet) == "up"
    assert {uuid: set(directory.files) for uuid, directory in first.directories.items()} == kept
    assert settled(fleet) == []


LEFT = pytest.mark.parametrize(
    "left",
    [stop, migrate, resize, lambda: resize("disks"), lambda: migrate(confirm=True), live_migrate, evacuate],
    ids=["stop", "migrate", "resize", "resize-elsewhere", "migrate-confirm", "live-migrate", "evacuate"],
)
RETURNS = pytest.mark.parametrize("returns", [False, True], ids=["away", "answers"])
EVERY = 1 if FULL else 3


def deaths(fleet: SimFleet, left: Callable[[], Any], every: int) -> Iterator[tuple[str, SimFleet]]:
    """The process died after one of its transactions, or of its acts on hosts."""
    for kind in ("write", "act"):
        for n in itertools.count(1, every):
            twin = fleet.clone(made_directory(fleet))
            twin.faults += [nth("*", n - 1, "dies-after")] if kind == "act" else []
            dies_at = ("after-write", n) if kind == "write" else None
            try:
                with twin.process(dies_at=dies_at) as process:
                    process.operator.run([left()])
            except Died:
                twin.faults.clear()
                yield f"{kind} {n}", twin
            else:
                break
            finally:
                twin.close()


def left_half_way(
    fleet: SimFleet, left: Callable[[], Any], every: int = EVERY
) -> Iterator[tuple[str, SimFleet]]:
    """Then kvm1 was lost; the instance is still to be evacuated from there."""
    if left is evacuate:
        lose_host(fleet)
    met = 0
    for n, twin in deaths(fleet, left, every):
        lose_host(twin)
        (instance,) = twin.db.read(instances.everything)
        if instance.host == "kvm1" and instance.vm_state is not VmState.RESIZED:
            met += 1
            yield n, twin
    assert met > 1


def returned(fleet: SimFleet) -> None:
    """All hosts are there again, and what an audit heals is healed."""
    for host in fleet.hosts.values():
        host.up = True
    while fleet.run(heal()).result == "done":
        pass


@RETURNS
@LEFT
def test_what_was_left_half_way_makes_way(fleet: SimFleet, left: Callable[[], Any], returns: bool) -> None:
    """Also when its host, fenced by a reset, answers again: nothing is started there."""
    for n, twin in left_half_way(fleet, left):
        twin.hosts["kvm1"].up = returns
        outcome = twin.run(evacuate())
        assert outcome.code == 0, (n, outcome.error)
        assert not twin.hosts["kvm1"].running(), n
        returned(twin)
        assert settled(twin) == [], n


def test_a_dry_run_shows_what_makes_way(fleet: SimFleet) -> None:
    """It changes nothing, and is what happens to it then."""
    courses = set()
    for n, twin in left_half_way(fleet, migrate):
        uuid = uuid_of(twin)
        held = twin.db.read(lambda tx, uuid=uuid: operations.holding(tx, uuid))
        with twin.process() as process:
            (plan,) = process.operator.show([evacuate()])
        assert twin.db.read(lambda tx, uuid=uuid: operations.holding(tx, uuid)) == held
        assert (held is None) == ("first" not in plan), n
        with twin.process() as process:
            outcome = process.operator.run([evacuate()])[0]
            assert outcome.code == 0, (n, outcome.error)
            if held is not None:
                ended = process.journal.load(held).state
                course = plan["first"]["course"]
                assert plan["first"]["operation"] == held, n
                assert ended == {"undo": OpState.UNDONE, "finish": OpState.DONE}[course], n
                courses.add((course, bool(plan["steps"])))
    assert ("undo", True) in courses


def test_a_live_resize_makes_way(fleet: SimFleet) -> None:
    """Past its point of no return nothing is asked of its host any more."""
    assert fleet.run(delete()).code == 0 and fleet.run(boot(flavor="lean", host="kvm1")).code == 0
    for n, twin in left_half_way(fleet, lambda: resize("wide", live=True), every=1):
        outcome = twin.run(evacuate())
        assert outcome.code == 0, (n, outcome.error)
        returned(twin)
        assert settled(twin) == [], n


@LEFT
def test_what_made_way_for_an_evacuation_that_fails(fleet: SimFleet, left: Callable[[], Any]) -> None:
    """Nothing of the instance is lost: with its host it is back. What a live migration would have gone with
    may lie there."""
    for n, twin in left_half_way(fleet, left):
        first, uuid = twin.hosts["kvm1"], uuid_of(twin)
        (first.directories.get(uuid) or first.aside[uuid]).files["written"] = b"by the guest"
        twin.faults.append(Fault("start", "fails"))
        outcome = twin.run(evacuate(host="kvm2"))
        if outcome.code == 0:
            continue
        returned(twin)
        assert twin.run(start()).code == 0, (n, outcome.error)
        returned(twin)
        wrong = [one for one in settled(twin) if not re.search(r"migrate.*[.]xml was left", one)]
        assert wrong == [], (n, outcome.error)
        assert first.directories[uuid].files["written"] == b"by the guest", n


def test_a_guest_that_stands_still_on_the_target(fleet: SimFleet) -> None:
    """Of a live migration whose source is lost: it is left alone, until somebody has let it go on."""
    live_ends(Ends.NOT_RESUMED)(fleet)
    met = 0
    for n, twin in left_half_way(fleet, live_migrate, every=1):
        uuid = uuid_of(twin)
        still = [
            host
            for host in twin.hosts.values()
            if uuid in host.domains and host.domains[uuid].state is PowerState.PAUSED
        ]
        outcome = twin.run(evacuate())
        if not still:
            assert outcome.code == 0, (n, outcome.error)
            continue
        met += 1
        assert outcome.code == 6 and outcome.error is not None, n
        assert "cannot be ended" in outcome.error.message
        assert still[0].domains[uuid].state is PowerState.PAUSED
        still[0].domains[uuid].state = PowerState.RUNNING
        outcome = twin.run(evacuate())
        assert (outcome.code, outcome.result) == (0, "done"), (n, outcome.error)
        (instance,) = twin.db.read(instances.everything)
        assert (instance.host, still[0].running()) == (still[0].name, {uuid})
        returned(twin)
        assert settled(twin) == [], n
    assert met


def test_both_hosts_of_what_was_left_are_lost(fleet: SimFleet) -> None:
    """A new host that is fenced as well is not waited for."""
    uuid = uuid_of(fleet)
    for n, twin in left_half_way(fleet, evacuate):
        with twin.db.writing() as tx:
            there = [hold["host"] for hold in hosts.holds_of(tx, uuid) if hold["host"] != "kvm1"]
            for name in there:
                twin.hosts[name].power_cycle()
                twin.hosts[name].up = False
                hosts.fence(tx, name, twin.clock.now())
        outcome = twin.run(evacuate())
        assert outcome.code == 0, (n, outcome.error)
        returned(twin)
        assert settled(twin) == [], n


def test_a_live_owner_is_not_disturbed(fleet: SimFleet) -> None:
    seen = []

    class Loses:
        def reach(self, point: str, record: Any) -> None:
            if (point, record.name) == ("after-record", "set-task"):
                lose_host(fleet)
                seen.append(fleet.run(evacuate(), name="b"))

    fleet.run(migrate(), failpoints=Loses())
    (outcome,) = seen
    assert outcome.code == 6 and outcome.error is not None
    assert "is held by migrate" in outcome.error.message


def test_the_next_host_is_tried(fleet: SimFleet) -> None:
    lose_host(fleet)
    fleet.faults.append(Fault("start", "fails"))
    assert fleet.run(evacuate()).code == 0
    assert any("; trying kvm" in line for line in fleet.told)
    assert settled(fleet) == []


def test_a_named_host_that_fails_is_the_end_of_it(fleet: SimFleet) -> None:
    lose_host(fleet)
    fleet.faults.append(Fault("start", "fails"))
    assert fleet.run(evacuate(host="kvm2")).code == 1
    assert settled(fleet) == []


# --- a move that waits ---


def returns(fleet: SimFleet, name: str) -> None:
    """Audit cleans it, and it takes instances again."""
    fleet.hosts[name].up = True
    while fleet.run(heal()).result == "done":
        pass
    with fleet.db.reading() as tx:
        assert hosts.get(tx, name).state == "up"
    assert settled(fleet) == [] and audited(fleet) == []


def only(fleet: SimFleet) -> tuple[str | None, str, str]:
    (one,) = fleet.db.read(instances.everything)
    return one.host, one.status, one.flavor.name


def test_a_move_is_reverted_without_the_host_that_was_lost(fleet: SimFleet) -> None:
    assert fleet.run(resize(host="kvm2")).code == 0
    lose_host(fleet, "kvm2")
    outcome = fleet.run(evacuate(proof=Proof(host="kvm2", words="its power was cut")))
    assert outcome.code == 5 and outcome.error is not None
    assert outcome.error.hint == "novactl resize-revert web1 does without kvm2 once that is fenced"
    outcome = fleet.run(confirm())
    assert outcome.code == 7
    assert fleet.run(revert()).code == 0
    assert only(fleet) == ("kvm1", "ACTIVE", "small")
    assert fleet.hosts["kvm1"].domains[uuid_of(fleet)].state is PowerState.RUNNING
    assert fleet.hosts["kvm2"].everything() != set()
    returns(fleet, "kvm2")
    assert fleet.hosts["kvm2"].everything() == set()


def test_a_move_is_confirmed_without_the_host_that_was_lost(fleet: SimFleet) -> None:
    assert fleet.run(resize(host="kvm2")).code == 0
    lose_host(fleet, "kvm1")
    assert fleet.run(revert()).code == 7
    assert fleet.run(confirm()).code == 0
    assert only(fleet) == ("kvm2", "ACTIVE", "large")
    returns(fleet, "kvm1")
    assert fleet.hosts["kvm1"].everything() == set()


def test_a_resize_on_a_lost_host_is_confirmed_and_evacuated(fleet: SimFleet) -> None:
    assert fleet.run(resize(host="kvm1")).code == 0
    lose_host(fleet, "kvm1")
    assert fleet.run(revert()).code == 7
    outcome = fleet.run(evacuate())
    assert outcome.error is not None and "novactl resize-confirm web1" in str(outcome.error.hint)
    assert fleet.run(confirm()).code == 0
    assert fleet.run(evacuate()).code == 0
    assert only(fleet)[0] != "kvm1"
    returns(fleet, "kvm1")


def test_disks_that_a_lost_host_may_still_write_to_are_not_reverted_to(fleet: SimFleet) -> None:
    share(fleet)
    assert fleet.run(resize(host="kvm2")).code == 0
    lose_host(fleet, "kvm2")
    (directory,) = fleet.hosts["kvm1"].directories.values()
    directory.files["held"] = b"yes"
    outcome = fleet.run(revert())
    assert outcome.code == 5 and outcome.error is not None
    assert "held open: its guest runs somewhere" in outcome.error.message
    del directory.files["held"]
    assert fleet.run(revert()).code == 0
    assert only(fleet)[:2] == ("kvm1", "ACTIVE")


# --- the new host of a move is lost before the old one was cleaned up ---


def marked_by_guest(fleet: SimFleet) -> None:
    (directory,) = fleet.hosts["kvm1"].directories.values()
    directory.files["written"] = b"by the guest"


def moved_to_a_lost_host(fleet: SimFleet, left: Callable[[], Any]) -> Iterator[tuple[str, SimFleet, bool]]:
    """The novactl that moved it died, and then kvm2 did; whether all of it is still on kvm1."""
    met = set()
    for n, twin in deaths(fleet, left, 1):
        (instance,) = twin.db.read(instances.everything)
        if instance.host != "kvm2" or instance.vm_state is VmState.RESIZED:
            continue
        lose_host(twin, "kvm2")
        first, uuid = twin.hosts["kvm1"], instance.uuid
        whole = (first.directories.get(uuid) or first.aside.get(uuid)) is not None
        met.add(whole)
        yield n, twin, whole
    assert met == {True, False}


GONE = Proof(host="kvm2", words="its power was cut")
MOVED = pytest.mark.parametrize(
    "left",
    [
        lambda: migrate(host="kvm2", confirm=True),
        lambda: resize("large", host="kvm2", confirm=True),
        lambda: live_migrate(host="kvm2"),
        confirm,
    ],
    ids=["migrate-confirm", "resize-confirmed", "live-migrate", "resize-confirm"],
)


def begun(fleet: SimFleet, left: Callable[[], Any]) -> None:
    marked_by_guest(fleet)
    if left is confirm:
        assert fleet.run(resize("large", host="kvm2")).code == 0


@MOVED
def test_the_last_copy_is_kept_and_the_move_reverted(fleet: SimFleet, left: Callable[[], Any]) -> None:
    begun(fleet, left)
    quota = fleet.db.read(lambda tx: projects.find(tx, "default"))
    for n, twin, whole in moved_to_a_lost_host(fleet, left):
        with twin.process() as process:
            (plan,) = process.operator.show([evacuate(proof=GONE)])
        assert (plan.get("first", {}).get("course") == "wait") == whole, n
        outcome = twin.run(evacuate(proof=GONE))
        if not whole:
            assert outcome.code == 0, (n, outcome.error)
            continue
        assert outcome.code == 5 and outcome.error is not None, (n, outcome.error)
        assert outcome.error.hint == "novactl resize-revert web1 does without kvm2 once that is fenced"
        assert [one for one in settled(twin) if not one.startswith("kvm2: ")] == [], n
        outcome = twin.run(revert())
        assert outcome.code == 0, (n, outcome.error)
        assert only(twin) == ("kvm1", "ACTIVE", "small"), n
        first, uuid = twin.hosts["kvm1"], uuid_of(twin)
        assert first.running() == {uuid} and first.directories[uuid].files["written"] == b"by the guest", n
        if left is not confirm:
            assert twin.db.read(lambda tx: projects.find(tx, "default")) == quota, n
        returns(twin, "kvm2")


@MOVED
def test_resume_does_not_remove_the_last_copy(fleet: SimFleet, left: Callable[[], Any]) -> None:
    """When the host is there again, it goes on."""
    begun(fleet, left)
    for n, twin, whole in moved_to_a_lost_host(fleet, left):
        uuid, first = uuid_of(twin), twin.hosts["kvm1"]
        held = twin.db.read(lambda tx, uuid=uuid: operations.holding(tx, uuid))
        if held is None or not whole:
            continue
        left_again = pytest.raises(OperationIncomplete, match="all that is left")
        with twin.process() as process, left_again:
            recover.take_over(process.operator, held, back=False)
        there = first.directories.get(uuid) or first.aside[uuid]
        assert there.files["written"] == b"by the guest", n
        twin.hosts["kvm2"].up = True
        with twin.process() as process:
            recover.take_over(process.operator, held, back=False)
        assert uuid not in {*first.directories, *first.aside}, n


@MOVED
def test_nor_while_the_new_host_gives_no_answer(fleet: SimFleet, left: Callable[[], Any]) -> None:
    """It may be lost, though nobody has fenced it yet."""
    begun(fleet, left)
    for n, twin, whole in moved_to_a_lost_host(fleet, left):
        uuid, first = uuid_of(twin), twin.hosts["kvm1"]
        with twin.db.writing() as tx:
            hosts.update(tx, "kvm2", state="up")
        held = twin.db.read(lambda tx, uuid=uuid: operations.holding(tx, uuid))
        if held is None or not whole:
            continue
        left_again = pytest.raises(OperationIncomplete, match="kvm2: no answer")
        with twin.process() as process, left_again:
            recover.take_over(process.operator, held, back=False)
        there = first.directories.get(uuid) or first.aside[uuid]
        assert there.files["written"] == b"by the guest", n


def test_a_revert_whose_host_is_lost_keeps_what_was_reverted(fleet: SimFleet) -> None:
    """What is on the host that it has left stays until the lost one is there again."""
    assert fleet.run(resize("large", host="kvm2")).code == 0
    met = 0
    for n, twin in deaths(fleet, revert, 1):
        (instance,) = twin.db.read(instances.everything)
        if instance.host != "kvm1" or instance.uuid not in twin.hosts["kvm2"].directories:
            continue
        met += 1
        lose_host(twin)
        outcome = twin.run(evacuate())
        assert outcome.code == 6 and outcome.error is not None, n
        assert "what kvm2 has of it is all that is left" in outcome.error.message, n
        assert instance.uuid in twin.hosts["kvm2"].directories, n
        twin.hosts["kvm1"].up = True
        held = twin.db.read(lambda tx, uuid=instance.uuid: operations.holding(tx, uuid))
        with twin.process() as process:
            recover.take_over(process.operator, str(held), back=False)
        returns(twin, "kvm1")
    assert met
