"""The audit: every difference that can be, put there by hand, is found, and healed where that can be."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import audit
from novactl.actions.audit import heal as heals
from novactl.db import hosts, instances
from novactl.db.tables import metadata
from novactl.engine.operation import Operation, OpState
from novactl.errors import Busy, HostFault, HostUnreachable, Refused
from novactl.objects.finding import Finding
from novactl.objects.states import PowerState, VmState
from novactl.objects.survey import SeenDirectory, SeenDomain, Survey
from tests.sim.actions import boot, delete, migrate, reset_state, resize, revert, start, stop
from tests.support import fleet as records
from tests.support import scratch
from tests.support.sim import Fault, SimDirectory, SimFleet, SimJob, always, settled
from tests.support.toys import DieAt, Died

OTHER_FLEET = "22222222-2222-4333-8444-555555555555"
NOBODY = records.uuid(9)
NOTHING_USED = dict.fromkeys(("instances_used", "cores_used", "memory_mib_used"), 0)


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    """web1 runs on kvm1, web2 is off on kvm2, and web0 was deleted."""
    made = SimFleet(quick)
    for action in (boot("web0"), delete("web0"), boot("web1", host="kvm1"), boot("web2", host="kvm2")):
        assert made.run(action).code == 0
    assert made.run(stop("web2")).code == 0
    yield made
    made.close()


def look(fleet: SimFleet) -> list[Finding]:
    with fleet.process() as process:
        evidence = audit.gather(process.world, process.operator.is_left)
    return audit.findings(evidence.after, evidence.surveys, earlier=evidence.before, copies=evidence.copies)


def heal(fleet: SimFleet, found: list[Finding] | None = None) -> list[Any]:
    """The outcomes of `audit --heal`."""
    groups = heals.groups(look(fleet) if found is None else found)
    with fleet.process() as process:
        return [outcome for group in groups if group for outcome in process.operator.run(group)]


def uuid_of(fleet: SimFleet, name: str) -> str:
    with fleet.db.reading() as tx:
        return str((tx.one("SELECT uuid FROM instances WHERE name = :name", name=name) or {})["uuid"])


def change(fleet: SimFleet, sql: str, **values: Any) -> None:
    """By other hands: also what the database itself would refuse."""
    with fleet.db.writing() as tx:
        tx.run(sql, **values)


def put(fleet: SimFleet, table: str, **values: Any) -> None:
    with fleet.db.writing() as tx:
        tx.insert(table, **values)


# --- everything that can be found ---


def hold_of_nobody(fleet: SimFleet) -> None:
    put(fleet, "holds", instance_uuid=NOBODY, host="kvm3", role="instance", vcpus=1, memory_mib=1, disk_gib=1)
    change(
        fleet, "UPDATE hosts SET vcpus_used = 1, memory_mib_used = 1, disk_gib_used = 1 WHERE name = 'kvm3'"
    )


def hold_of_a_deleted_one(fleet: SimFleet) -> None:
    uuid = uuid_of(fleet, "web0")
    put(fleet, "holds", instance_uuid=uuid, host="kvm3", role="instance", vcpus=1, memory_mib=1, disk_gib=1)
    change(
        fleet, "UPDATE hosts SET vcpus_used = 1, memory_mib_used = 1, disk_gib_used = 1 WHERE name = 'kvm3'"
    )


def no_hold(fleet: SimFleet) -> None:
    change(fleet, "DELETE FROM holds WHERE host = 'kvm1'")
    change(
        fleet, "UPDATE hosts SET vcpus_used = 0, memory_mib_used = 0, disk_gib_used = 0 WHERE name = 'kvm1'"
    )


def no_hold_and_no_room(fleet: SimFleet) -> None:
    no_hold(fleet)
    change(fleet, "UPDATE hosts SET enabled = 0 WHERE name = 'kvm1'")


def wrong_count(fleet: SimFleet) -> None:
    change(fleet, "UPDATE hosts SET memory_mib_used = memory_mib_used + 5 WHERE name = 'kvm1'")


def wrong_quota(fleet: SimFleet) -> None:
    put(fleet, "projects", name="default", description="", limits="{}", created_at="", **NOTHING_USED)


def address_of_a_deleted_one(fleet: SimFleet) -> None:
    uuid = uuid_of(fleet, "web0")
    with fleet.db.writing() as tx:
        instances.add_port(tx, uuid, "id-lan", records.port(uuid, ip="192.0.2.99"))


def secret_of_a_deleted_one(fleet: SimFleet) -> None:
    put(fleet, "secrets", id="s1", owner=uuid_of(fleet, "web0"), sealed="")


def secret_of_nobody(fleet: SimFleet) -> None:
    put(fleet, "secrets", id="s1", owner=NOBODY, sealed="")


def lock_of_an_ended_operation(fleet: SimFleet) -> None:
    uuid = uuid_of(fleet, "web1")
    with fleet.db.reading() as tx:
        op = (tx.one("SELECT id FROM operations WHERE target_uuid = :uuid", uuid=uuid) or {})["id"]
    put(fleet, "op_locks", kind="instance", id=uuid, operation=op, mode="X", exclusive=f"instance/{uuid}")


def name_of_a_deleted_one(fleet: SimFleet) -> None:
    change(fleet, "UPDATE instances SET live_name = 'default/web0' WHERE name = 'web0'")


def a_task(fleet: SimFleet) -> None:
    change(fleet, "UPDATE instances SET task_state = 'powering-on' WHERE name = 'web2'")


def a_build(fleet: SimFleet) -> None:
    change(fleet, "UPDATE instances SET vm_state = 'building' WHERE name = 'web1'")


def an_operation(fleet: SimFleet) -> None:
    with pytest.raises(Died):
        fleet.run(stop("web1"), failpoints=DieAt("after-intent", 2))


def domain_of_nobody(fleet: SimFleet) -> None:
    """As a boot that the database has forgotten."""
    uuid, host = uuid_of(fleet, "web2"), fleet.hosts["kvm2"]
    domain = copy.deepcopy(host.domains[uuid])
    domain.xml = domain.xml.replace(uuid, NOBODY)
    fleet.hosts["kvm3"].domains[NOBODY] = domain


def domain_of_a_deleted_one(fleet: SimFleet) -> None:
    domain_of_nobody(fleet)
    uuid, host = uuid_of(fleet, "web0"), fleet.hosts["kvm3"]
    host.domains[uuid] = host.domains.pop(NOBODY)
    host.directories[uuid] = SimDirectory("op-0a")


def a_deleted_one_runs(fleet: SimFleet) -> None:
    domain_of_a_deleted_one(fleet)
    fleet.hosts["kvm3"].domains[uuid_of(fleet, "web0")].state = PowerState.RUNNING


def no_domain(fleet: SimFleet) -> None:
    del fleet.hosts["kvm1"].domains[uuid_of(fleet, "web1")]


def nothing_left(fleet: SimFleet) -> None:
    no_domain(fleet)
    del fleet.hosts["kvm1"].directories[uuid_of(fleet, "web1")]


def moved(fleet: SimFleet) -> None:
    uuid, here, there = uuid_of(fleet, "web1"), fleet.hosts["kvm1"], fleet.hosts["kvm3"]
    there.domains[uuid] = here.domains.pop(uuid)
    there.directories[uuid] = here.directories.pop(uuid)


def moved_without_room(fleet: SimFleet) -> None:
    moved(fleet)
    change(fleet, "UPDATE hosts SET enabled = 0 WHERE name = 'kvm3'")


def moved_without_its_disks(fleet: SimFleet) -> None:
    uuid = uuid_of(fleet, "web1")
    fleet.hosts["kvm3"].domains[uuid] = fleet.hosts["kvm1"].domains.pop(uuid)


def twice(fleet: SimFleet) -> None:
    uuid = uuid_of(fleet, "web1")
    for what in ("domains", "directories"):
        here, there = getattr(fleet.hosts["kvm1"], what), getattr(fleet.hosts["kvm3"], what)
        there[uuid] = copy.deepcopy(here[uuid])


def a_stale_copy(fleet: SimFleet) -> None:
    twice(fleet)
    fleet.hosts["kvm3"].domains[uuid_of(fleet, "web1")].state = PowerState.SHUTDOWN


def a_stale_domain(fleet: SimFleet) -> None:
    """kvm1 and kvm3 have their instances on one storage."""
    a_stale_copy(fleet)
    one, other = fleet.hosts["kvm1"], fleet.hosts["kvm3"]
    one.storage = other.storage = "one"
    other.directories = one.directories


def fenced(fleet: SimFleet) -> None:
    with fleet.db.writing() as tx:
        hosts.fence(tx, "kvm3", "2026-01-01T00:00:00Z")


def a_stale_copy_that_has_the_only_disk(fleet: SimFleet) -> None:
    a_stale_copy(fleet)
    del fleet.hosts["kvm1"].directories[uuid_of(fleet, "web1")].files["disk"]


def runs_where_it_should_not(fleet: SimFleet) -> None:
    twice(fleet)
    fleet.hosts["kvm1"].domains[uuid_of(fleet, "web1")].state = PowerState.SHUTDOWN


def stale_files(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].directories[uuid_of(fleet, "web1")] = SimDirectory("op-0a")


def went_off(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].power_cycle()


def went_on(fleet: SimFleet) -> None:
    fleet.hosts["kvm2"].domains[uuid_of(fleet, "web2")].state = PowerState.RUNNING


def was_paused(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].domains[uuid_of(fleet, "web1")].state = PowerState.PAUSED


def crashed(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].domains[uuid_of(fleet, "web1")].state = PowerState.CRASHED


def autostarts(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].domains[uuid_of(fleet, "web1")].autostart = True


def a_copy(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].directories[uuid_of(fleet, "web1")].files["op-0a.disk.delta"] = b"left"


def kept_by_one_that_is_done(fleet: SimFleet) -> None:
    uuid = uuid_of(fleet, "web2")
    with fleet.db.reading() as tx:
        row = tx.one("SELECT id FROM operations WHERE target_uuid = :uuid ORDER BY id DESC", uuid=uuid)
    assert row is not None
    fleet.hosts["kvm2"].directories[uuid].files[f"disk.{row['id']}"] = b"before"


def kept_by_one_of_nobody(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].directories[uuid_of(fleet, "web1")].files["disk.op-0a"] = b"before"


def a_drive_of_nobody(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].directories[uuid_of(fleet, "web1")].files["disk.config.op-0a"] = b"before"


def half_removed(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].strays.add(f"{uuid_of(fleet, 'web0')}.del")


def half_made(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].strays.add(f"{uuid_of(fleet, 'web2')}.op-0a")


def half_of_nobody(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].strays.add(f"{NOBODY}.del")


def directory_of_a_deleted_one(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].directories[uuid_of(fleet, "web0")] = SimDirectory("op-0a")


def directory_of_nobody(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].directories[NOBODY] = SimDirectory("op-0a")


def an_odd_entry(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].strays |= {"notes\n.txt", "lost+found"}


def no_disk(fleet: SimFleet) -> None:
    del fleet.hosts["kvm1"].directories[uuid_of(fleet, "web1")].files["disk"]


def no_xml(fleet: SimFleet) -> None:
    del fleet.hosts["kvm1"].directories[uuid_of(fleet, "web1")].files["libvirt.xml"]


def all_is_aside(fleet: SimFleet) -> None:
    host, uuid = fleet.hosts["kvm1"], uuid_of(fleet, "web1")
    host.aside[uuid] = host.directories.pop(uuid)


def a_copy_is_aside(fleet: SimFleet) -> None:
    uuid = uuid_of(fleet, "web1")
    fleet.hosts["kvm3"].aside[uuid] = copy.deepcopy(fleet.hosts["kvm1"].directories[uuid])


def a_copy_is_aside_beside_it(fleet: SimFleet) -> None:
    host, uuid = fleet.hosts["kvm1"], uuid_of(fleet, "web1")
    host.aside[uuid] = copy.deepcopy(host.directories[uuid])


def one_of_a_deleted_one_is_aside(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].aside[uuid_of(fleet, "web0")] = SimDirectory("op-0a")


def a_part(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].parts["ab" * 32] = bytearray(b"half")


def a_job(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].jobs["op-0a", 3] = SimJob(("sleep", "60"), fleet.clock.monotonic() + 60)


def a_key(fleet: SimFleet) -> None:
    fleet.hosts["kvm3"].lines["op-0a"] = []


def newer_epoch(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].epochs[uuid_of(fleet, "web1")] = 9


def unknown_mark(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].mark = "000000000099.op-0a"


def newer_copy(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].copy = (99, b"{}")


def no_fleet(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].fleet = None


def another_fleet(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].fleet = OTHER_FLEET


def does_not_answer(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].up = False


def a_foreign_guest_on_our_tap(fleet: SimFleet) -> None:
    domain_of_nobody(fleet)
    domain = fleet.hosts["kvm3"].domains[NOBODY]
    domain.xml = domain.xml.replace(scratch.FLEET, OTHER_FLEET)


@dataclass(frozen=True)
class Planted:
    """One thing put there, and the one finding of it."""

    how: Callable[[SimFleet], None]
    finding: str
    severity: str
    host: str | None
    target: str
    words: str  # in its message
    heals: bool = False


PLANTED = [
    Planted(hold_of_nobody, "hold-without-instance", "warning", "kvm3", NOBODY, "which is unknown", True),
    Planted(hold_of_a_deleted_one, "hold-without-instance", "warning", "kvm3", "web0", "is deleted", True),
    Planted(no_hold, "hold-missing", "error", "kvm1", "web1", "nothing of kvm1 is claimed for it", True),
    Planted(no_hold_and_no_room, "hold-missing", "error", "kvm1", "web1", "there is no room"),
    Planted(wrong_count, "used-differs", "warning", "kvm1", "kvm1", "517 MiB and 1 GiB count as used", True),
    Planted(wrong_quota, "quota-differs", "warning", None, "default", "0 instances, 0 cores and", True),
    Planted(
        address_of_a_deleted_one, "address-without-instance", "warning", None, "web0", "192.0.2.99", True
    ),
    Planted(secret_of_a_deleted_one, "secret-without-owner", "warning", None, "web0", "is deleted", True),
    Planted(secret_of_nobody, "secret-without-owner", "warning", None, NOBODY, "is unknown", True),
    Planted(lock_of_an_ended_operation, "lock-without-operation", "error", None, "op-", "has ended", True),
    Planted(name_of_a_deleted_one, "name-without-instance", "warning", None, "web0", "default/web0", True),
    Planted(a_task, "task-without-operation", "warning", None, "web2", "shows powering-on", True),
    Planted(a_build, "building-without-operation", "error", None, "web1", "novactl delete web1"),
    Planted(an_operation, "operation-left", "warning", None, "web1", "novactl op resume op-"),
    Planted(domain_of_nobody, "unknown-domain", "error", "kvm3", "web2", "(off) is ours and not in the"),
    Planted(domain_of_a_deleted_one, "deleted-domain", "warning", "kvm3", "web0", "that is off", True),
    Planted(a_deleted_one_runs, "deleted-domain", "error", "kvm3", "web0", "that is running"),
    Planted(no_domain, "missing-domain", "error", "kvm1", "web1", "novactl start web1 makes it again"),
    Planted(nothing_left, "missing-domain", "error", "kvm1", "web1", "it is lost"),
    Planted(moved, "wrong-host", "error", "kvm3", "web1", "is on kvm3, recorded on kvm1", True),
    Planted(moved_without_room, "wrong-host", "error", "kvm3", "web1", "no room there"),
    Planted(moved_without_its_disks, "wrong-host", "error", "kvm3", "web1", "its disks are on kvm1"),
    Planted(twice, "runs-twice", "error", "kvm3", "web1", "runs on kvm1 and on kvm3"),
    Planted(a_stale_copy, "stale-copy", "warning", "kvm3", "web1", "a copy that is off", True),
    Planted(a_stale_domain, "stale-domain", "warning", "kvm3", "web1", "on the same storage", True),
    Planted(fenced, "fenced-host", "warning", "kvm3", "kvm3", "nothing is on it that should not be", True),
    Planted(runs_where_it_should_not, "wrong-host", "error", "kvm3", "web1", "its domain on kvm1 is off"),
    Planted(stale_files, "stale-copy", "warning", "kvm3", "web1", "kvm3 has files of it", True),
    Planted(all_is_aside, "files-aside", "error", "kvm1", "web1", "a move has set aside", True),
    Planted(a_copy_is_aside, "stale-copy", "warning", "kvm3", "web1", "does not wait any more", True),
    Planted(a_copy_is_aside_beside_it, "stray-directory", "warning", "kvm1", "web1", "does not wait any"),
    Planted(
        one_of_a_deleted_one_is_aside, "directory-without-instance", "warning", "kvm3", "web0", "aside", True
    ),
    Planted(went_off, "power-differs", "warning", "kvm1", "web1", "active (running), kvm1 says shut", True),
    Planted(went_on, "power-differs", "warning", "kvm2", "web2", "kvm2 says running", True),
    Planted(was_paused, "power-differs", "warning", "kvm1", "web1", "kvm1 says paused", True),
    Planted(crashed, "power-differs", "warning", "kvm1", "web1", "kvm1 says crashed", True),
    Planted(autostarts, "autostart-on", "warning", "kvm1", "web1", "would start it when kvm1", True),
    Planted(a_copy, "files-left", "warning", "kvm1", "web1", "that operation op-0a made of its disks", True),
    Planted(
        kept_by_one_that_is_done, "disks-aside", "warning", "kvm2", "web2", "is kept aside on kvm2", True
    ),
    Planted(kept_by_one_of_nobody, "disks-aside", "error", "kvm1", "web1", "disk of before operation op-0a"),
    Planted(a_drive_of_nobody, "disks-aside", "error", "kvm1", "web1", "disk.config of before operation"),
    Planted(half_removed, "stray-directory", "warning", "kvm3", "web0", ".del was half removed", True),
    Planted(half_made, "stray-directory", "warning", "kvm3", "web2", ".op-0a was half made", True),
    Planted(half_of_nobody, "stray-directory", "warning", "kvm3", NOBODY, "its instance is unknown"),
    Planted(
        directory_of_a_deleted_one, "directory-without-instance", "warning", "kvm3", "web0", "deleted", True
    ),
    Planted(directory_of_nobody, "directory-without-instance", "warning", "kvm3", NOBODY, "which is unknown"),
    Planted(an_odd_entry, "foreign-entry", "info", "kvm3", "kvm3", r"'notes\n.txt'"),
    Planted(no_disk, "files-missing", "error", "kvm1", "web1", "its disk is missing on kvm1"),
    Planted(no_xml, "files-missing", "warning", "kvm1", "web1", "libvirt.xml missing on kvm1"),
    Planted(a_part, "part-left", "info", "kvm3", "kvm3", "part of base file abab", True),
    Planted(a_job, "job-left", "info", "kvm3", "kvm3", "op-0a.3 runs, and its operation is unknown", True),
    Planted(a_key, "trust-left", "warning", "kvm3", "kvm3", "a key between hosts of operation op-0a", True),
    Planted(newer_epoch, "epoch-ahead", "error", "kvm1", "web1", "has seen epoch 9, the database has 1"),
    Planted(unknown_mark, "mark-unknown", "error", "kvm1", "kvm1", "novactl audit --adopt"),
    Planted(newer_copy, "copy-ahead", "error", "kvm1", "kvm1", "has copy 99 of the catalogue"),
    Planted(no_fleet, "fleet-mark-missing", "error", "kvm1", "kvm1", "carries no fleet's mark"),
    Planted(another_fleet, "fleet-mark-missing", "error", "kvm1", "kvm1", f"of fleet {OTHER_FLEET}"),
    Planted(does_not_answer, "unreachable-host", "error", "kvm1", "kvm1", "kvm1: no answer in time"),
    Planted(a_foreign_guest_on_our_tap, "foreign-domain", "info", "kvm3", "instance-", "is not ours and"),
]


def test_nothing_is_found(fleet: SimFleet) -> None:
    assert look(fleet) == []
    assert settled(fleet) == []


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.how.__name__)
def test_each_is_found_and_healed(fleet: SimFleet, planted: Planted) -> None:
    planted.how(fleet)
    before = _everything(fleet)
    (found,) = look(fleet)
    assert _everything(fleet) == before  # it only looked
    assert (found.finding, found.severity, found.host) == (planted.finding, planted.severity, planted.host)
    assert found.target.startswith(planted.target)
    assert planted.words in found.message
    assert (found.heal is not None) == planted.heals
    running = {name: host.running() for name, host in fleet.hosts.items()}
    outcomes = heal(fleet)
    assert [(outcome.result, outcome.code) for outcome in outcomes] == [("done", 0)] * planted.heals
    assert {name: host.running() for name, host in fleet.hosts.items()} == running
    if planted.heals:
        assert look(fleet) == []
        assert always(fleet) == []
        with fleet.process() as process:
            done = process.journal.load(outcomes[0].operation)
        assert (done.kind, done.state) == ("heal", OpState.DONE)
    else:
        assert _everything(fleet) == before
        assert look(fleet) == [found]


def _everything(fleet: SimFleet) -> Any:
    """All of the database, and of the hosts but for the calls they had."""
    hosts = copy.deepcopy({name: {**vars(host), "calls": []} for name, host in fleet.hosts.items()})
    with fleet.db.reading() as tx:
        tables = sorted(metadata.tables.keys() - {"commits"})  # marks of writes, our own planting's too
        return hosts, {table: sorted(map(str, tx.all(f"SELECT * FROM {table}"))) for table in tables}


def test_what_a_move_that_waits_has_set_aside_is_kept(fleet: SimFleet) -> None:
    """Whatever its state says by now."""
    assert fleet.run(migrate("web1")).code == 0
    assert fleet.run(reset_state("error", "web1")).code == 0
    assert heal(fleet) == [] and len(fleet.hosts["kvm1"].aside) == 1
    assert fleet.run(revert("web1")).code == 0
    assert look(fleet) == []


@pytest.mark.parametrize("flavor", ["large", "lean"])
def test_both_flavors_of_a_move_that_waits_count(fleet: SimFleet, flavor: str) -> None:
    """The project counts the larger, as either may be what is kept."""
    wrong_quota(fleet)
    assert [outcome.code for outcome in heal(fleet)] == [0]
    assert fleet.run(resize(flavor)).code == 0
    assert look(fleet) == []
    assert fleet.run(revert("web1")).code == 0
    assert look(fleet) == []


def test_the_only_disk_is_kept(fleet: SimFleet) -> None:
    a_stale_copy_that_has_the_only_disk(fleet)
    assert {(one.finding, one.heal) for one in look(fleet)} == {("files-missing", None), ("stale-copy", None)}
    assert heal(fleet) == []


# --- when it must not judge ---


def test_a_living_operation_is_no_finding_and_keeps_a_heal_out(fleet: SimFleet) -> None:
    autostarts(fleet)
    found = look(fleet)
    seen: list[Any] = []

    class Asks:
        def reach(self, point: str, record: Any) -> None:
            if point == "after-intent":
                seen.extend(look(fleet))
                (outcome,) = heal(fleet, found)
                seen.append(outcome.code)

    assert fleet.run(stop("web1"), failpoints=Asks()).code == 0
    assert seen == [6]


def test_what_changed_since_the_audit_is_not_healed(fleet: SimFleet) -> None:
    a_task(fleet)
    found = look(fleet)
    change(fleet, "UPDATE instances SET task_state = NULL, version = version + 1")
    (outcome,) = heal(fleet, found)
    assert (outcome.code, isinstance(outcome.error, Busy)) == (6, True)
    assert str(outcome.error) == "web2: was changed since the audit"


@pytest.mark.parametrize("planted", [domain_of_a_deleted_one, a_stale_copy])
def test_a_guest_that_runs_by_now_is_left(fleet: SimFleet, planted: Callable[[SimFleet], None]) -> None:
    planted(fleet)
    found = look(fleet)
    (domain,) = fleet.hosts["kvm3"].domains.values()
    domain.state = PowerState.RUNNING
    (outcome,) = heal(fleet, found)
    assert (outcome.code, "kvm3: the domain is running by now" in str(outcome.error)) == (1, True)
    assert len(fleet.hosts["kvm3"].running()) == 1
    assert fleet.active() == []


def test_another_domain_by_now_is_left(fleet: SimFleet) -> None:
    domain_of_a_deleted_one(fleet)
    found = look(fleet)
    (domain,) = fleet.hosts["kvm3"].domains.values()
    domain.operation = "op-0f"
    (outcome,) = heal(fleet, found)
    assert (outcome.code, "kvm3: a domain uses the directory" in str(outcome.error)) == (1, True)
    assert len(fleet.hosts["kvm3"].domains) == len(fleet.hosts["kvm3"].directories) == 1


@pytest.mark.parametrize("planted", [a_stale_copy, stale_files])
def test_a_copy_that_is_the_last_one_by_now_is_left(
    fleet: SimFleet, planted: Callable[[SimFleet], None]
) -> None:
    planted(fleet)
    found = look(fleet)
    no_domain(fleet)
    (outcome,) = heal(fleet, found)
    assert (outcome.code, "may be all there is of it" in str(outcome.error)) == (1, True)
    assert fleet.hosts["kvm3"].everything() == {uuid_of(fleet, "web1")}


def test_an_instance_that_is_back_by_now_keeps_its_record(fleet: SimFleet) -> None:
    moved(fleet)
    found = look(fleet)
    uuid = uuid_of(fleet, "web1")
    fleet.hosts["kvm1"].domains[uuid] = fleet.hosts["kvm3"].domains[uuid]
    (outcome,) = heal(fleet, found)
    assert (outcome.code, "kvm1: has a domain of it by now" in str(outcome.error)) == (1, True)


def test_an_instance_whose_new_host_is_full_by_now_keeps_its_record(fleet: SimFleet) -> None:
    moved(fleet)
    found = look(fleet)
    change(fleet, "UPDATE hosts SET enabled = 0 WHERE name = 'kvm3'")
    (outcome,) = heal(fleet, found)
    assert (outcome.code, "kvm3: has no room for web1" in str(outcome.error)) == (1, True)
    with fleet.db.reading() as tx:
        assert [row["host"] for row in tx.all("SELECT host FROM holds ORDER BY host")] == ["kvm1", "kvm2"]


def test_a_heal_on_a_host_that_went_away(fleet: SimFleet) -> None:
    autostarts(fleet)
    found = look(fleet)
    fleet.hosts["kvm1"].up = False
    (outcome,) = heal(fleet, found)
    assert (outcome.code, outcome.operation) == (7, None)
    assert [one.finding for one in look(fleet)] == ["unreachable-host"]


def test_nothing_on_a_host_that_does_not_answer_is_taken_for_gone(fleet: SimFleet) -> None:
    nothing_left(fleet)
    half_removed(fleet)
    for host in fleet.hosts.values():
        host.up = False
    assert {one.finding for one in look(fleet)} == {"unreachable-host"}
    fleet.hosts["kvm1"].up = True
    lost = next(one for one in look(fleet) if one.finding == "missing-domain")
    assert lost.message.endswith("it is lost (nothing is known of kvm2, kvm3)")


def test_a_copy_whose_home_does_not_answer_is_left(fleet: SimFleet) -> None:
    a_stale_copy(fleet)
    fleet.hosts["kvm1"].up = False
    found = {one.finding: one for one in look(fleet)}
    assert set(found) == {"unreachable-host", "wrong-host"}
    assert found["wrong-host"].heal is None
    assert found["wrong-host"].message.endswith("off on kvm3, recorded on kvm1, and kvm1 does not answer")


def test_a_host_without_libvirt_is_one_that_does_not_answer(fleet: SimFleet) -> None:
    fleet.faults.append(Fault("survey", "fails", "kvm2"))
    (found,) = look(fleet)
    assert (found.finding, found.message) == (
        "unreachable-host",
        "kvm2: survey failed; nothing on it is judged",
    )


def test_a_damaged_catalogue_copy_hides_nothing(fleet: SimFleet) -> None:
    autostarts(fleet)
    fleet.faults.append(Fault("get_copy", "fails", "kvm1"))
    assert [one.finding for one in look(fleet)] == ["autostart-on"]


def test_foreign_domains_are_nobody_s_business(fleet: SimFleet) -> None:
    uuid = uuid_of(fleet, "web1")
    for name, host in fleet.hosts.items():
        domain = copy.deepcopy(fleet.hosts["kvm1"].domains[uuid])
        domain.xml = "<domain><name>x</name></domain>" if name == "kvm2" else "no xml"
        host.domains[records.uuid(7)] = domain
    assert look(fleet) == []


def test_a_heal_of_a_restored_database_is_refused(fleet: SimFleet) -> None:
    autostarts(fleet)
    newer_epoch(fleet)
    found = [one for one in look(fleet) if one.heal]
    (outcome,) = heal(fleet, found)
    assert (outcome.code, isinstance(outcome.error, Refused)) == (5, True)
    assert "novactl audit --adopt" in str(outcome.error.hint)


def test_many_at_once(fleet: SimFleet) -> None:
    """All that heal and do not touch each other, in one audit."""
    for how in (hold_of_nobody, no_hold, lock_of_an_ended_operation, autostarts, half_made, half_removed):
        how(fleet)
    for how in (a_part, a_job, secret_of_nobody, name_of_a_deleted_one, a_task, stale_files):
        how(fleet)
    assert len(look(fleet)) == 12
    assert {outcome.code for outcome in heal(fleet)} == {0}
    assert look(fleet) == []
    assert settled(fleet) == []
    assert fleet.run(start("web2")).code == 0


def test_dry_run_shows_what_would_be_done(fleet: SimFleet) -> None:
    autostarts(fleet)
    stale_files(fleet)
    (group,) = [group for group in heals.groups(look(fleet)) if group]
    with fleet.process() as process:
        (shown,) = process.operator.show(group)
    assert [step["name"] for step in shown["steps"]] == ["autostart-off", "remove-left-files"]
    assert (shown["kind"], shown["target"]) == ("heal", "web1")
    assert len(look(fleet)) == 2


# --- the judge alone ---

UUID = records.uuid(1)


def believed(**values: Any) -> audit.Believed:
    made = audit.Believed(fleet=scratch.FLEET, hosts={"kvm1": replace(records.host("kvm1"), **USED)})
    return replace(made, **values)


USED = {"vcpus_used": 1, "memory_mib_used": 512, "disk_gib_used": 1}
WEB1 = records.instance(1, host="kvm1", version=3)
HELD = {
    "holds": (
        {
            "instance_uuid": UUID,
            "host": "kvm1",
            "role": "instance",
            "vcpus": 1,
            "memory_mib": 512,
            "disk_gib": 1,
        },
    )
}
EMPTY = Survey(fleet=scratch.FLEET, mark="", boot_id="b", epochs={})
DOMAIN = SeenDomain(
    uuid=UUID, name="x", state=PowerState.SHUTDOWN, autostart=True, fleet=scratch.FLEET, operation="op-0a"
)


def names(found: list[Finding]) -> list[str]:
    return [one.finding for one in found]


def operation(uuid: str | None = UUID) -> Operation:
    return Operation("op-0b", "stop", "web1", uuid, "default", {}, OpState.RUNNING)


def test_what_changed_meanwhile_is_not_judged() -> None:
    before, after = (believed(living={UUID: replace(WEB1, version=n)}, **HELD) for n in (3, 4))
    surveys = {"kvm1": EMPTY}
    assert names(audit.findings(before, surveys)) == ["missing-domain"]
    assert names(audit.findings(after, surveys, earlier=before)) == []
    assert names(audit.findings(after, surveys, earlier=after)) == ["missing-domain"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_instance_that_is_worked_on_is_not_judged(when: str) -> None:
    calm = believed(living={UUID: WEB1}, **HELD)
    busy = replace(calm, active=(operation(),), operations={"op-0b": OpState.RUNNING})
    before, after = (busy, calm) if when == "before" else (calm, busy)
    survey = replace(EMPTY, directories=(SeenDirectory(entry=f"{UUID}.del"),), domains=(DOMAIN,))
    assert names(audit.findings(after, {"kvm1": survey}, earlier=before)) == []


def test_one_that_was_booted_or_deleted_meanwhile_is_not_judged() -> None:
    none = believed(hosts={"kvm1": records.host("kvm1")})
    there = believed(living={UUID: WEB1}, **HELD)
    gone = replace(none, gone={UUID: audit_gone(version=5)})
    with_domain = {"kvm1": replace(EMPTY, domains=(DOMAIN,))}
    assert names(audit.findings(there, {"kvm1": EMPTY}, earlier=none)) == []
    assert names(audit.findings(gone, with_domain, earlier=there)) == []
    assert names(audit.findings(gone, with_domain, earlier=gone)) == ["deleted-domain"]
    assert names(audit.findings(none, with_domain, earlier=none)) == ["unknown-domain"]


def audit_gone(**values: Any) -> Any:
    from novactl.actions.audit.gather import Gone

    return Gone(**{"uuid": UUID, "name": "web1", "live_name": None, "epoch": 3, "version": 1, **values})


def test_a_job_or_a_part_that_somebody_works_on_is_left() -> None:
    survey = replace(EMPTY, jobs=(("op-0b", 2, True),), parts=("ab" * 32,))
    calm = believed(hosts={"kvm1": records.host("kvm1")}, operations={"op-0b": OpState.DONE})
    lock = {"kind": "host", "id": "kvm1", "operation": "op-0b"}
    running = {"op-0b": OpState.RUNNING}
    busy = replace(calm, active=(operation(None),), operations=running, locks=(lock,))
    surveys = {"kvm1": survey}
    assert names(audit.findings(calm, surveys)) == ["job-left", "part-left"]
    for before, after in ((calm, busy), (busy, calm), (busy, busy)):
        assert names(audit.findings(after, surveys, earlier=before)) == []
    unknown = replace(calm, operations={})
    assert names(audit.findings(calm, surveys, earlier=unknown)) == ["part-left"]


@pytest.mark.parametrize("error", [HostUnreachable("kvm1: no"), HostFault("libvirt is ill")])
def test_a_host_that_does_not_answer(error: Any) -> None:
    found = audit.findings(believed(living={UUID: WEB1}, **HELD), {"kvm1": error})
    assert names(found) == ["unreachable-host"]
    assert found[0].message.startswith("kvm1: ")


def test_a_host_that_came_meanwhile_is_not_judged() -> None:
    assert names(audit.findings(believed(living={UUID: WEB1}, **HELD), {})) == []


def test_states_that_say_nothing_of_power_are_not_judged() -> None:
    survey = {"kvm1": replace(EMPTY, domains=(replace(DOMAIN, autostart=False),), directories=(WHOLE,))}
    for state, found in ((VmState.ERROR, []), (VmState.RESCUED, []), (VmState.ACTIVE, ["power-differs"])):
        living = {UUID: replace(WEB1, vm_state=state)}
        assert names(audit.findings(believed(living=living, **HELD), survey)) == found


WHOLE = SeenDirectory(entry=UUID, files=("disk", "disk.config", "disk.info", "libvirt.xml"))


def test_the_worst_comes_first() -> None:
    survey = {"kvm1": replace(EMPTY, domains=(DOMAIN,), directories=(WHOLE, SeenDirectory(entry="x")))}
    seen = believed(living={UUID: replace(WEB1, vm_state=VmState.BUILDING)}, **HELD)
    found = audit.findings(seen, {**survey})
    assert [one.severity for one in found] == sorted(
        (one.severity for one in found), key=["error", "warning", "info"].index
    )
    assert found[0].as_dict() == {
        "finding": "building-without-operation",
        "severity": "error",
        "host": None,
        "target": "web1",
        "message": "web1: is BUILD and no operation builds it: novactl delete web1",
        "heal": None,
    }


def test_every_heal_is_known() -> None:
    """Each finding that says what heals it has steps for that."""
    from novactl.actions.steps.heals import RECORDS

    healed = {planted.finding for planted in PLANTED if planted.heals}
    assert healed == {*RECORDS, *heals.ON_HOSTS}
