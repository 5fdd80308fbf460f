"""cron on simulated fleets: a task is done once, whoever dies with it, and nothing it took is missed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import audit
from novactl.actions.cron import TASKS, Cron, Row
from novactl.actions.cron.task import Context, Report, Task
from novactl.actions.delete import Delete
from novactl.actions.power import Start, Stop
from novactl.db import catalogue, hosts, instances, pruning, settings, tasks
from novactl.errors import (
    Busy,
    HostFault,
    HostRefused,
    HostUnreachable,
    HostUntrusted,
    Interrupted,
    NotFound,
    NovactlError,
    Refused,
)
from novactl.objects.host import Host
from novactl.virt.connection import LibvirtFacts
from tests.sim.actions import SHARED, boot, fill, share_images
from tests.support import scratch
from tests.support.databases import KINDS, place
from tests.support.life import Died
from tests.support.sim import Fault, Process, SimFleet, audited, settled, surveys

DAY = 86400.0
FACTS = {
    "tool": [],
    "missing": [],
    "bridge": ["br0"],
    "cpus": "8",
    "memory_kib": "8388608",
    "disk_total": str(100 << 30),
    "disk_free": str(90 << 30),
    "uid": "0",
    "arch": "x86_64",
    "hostname": "h",
    "machine_id": "m",
    "boot_id": "b1",
    "clock": "0.0",
    "odirect": "yes",
}

FIRST_LOOK = ("was started anew", "what is known of it changed")


class Reach:
    """host_checks.Looks on simulated hosts. `boots`: what a host says its boot is; `asked`: how often."""

    def __init__(self, fleet: SimFleet) -> None:
        self.fleet = fleet
        self.asked: list[str] = []
        self.boots = dict.fromkeys(fleet.hosts, "b1")

    def hypervisor_of(self, host: Host) -> Any:
        self.asked.append(host.name)
        return _Facts(self, host.name)

    def libvirt_facts(self, host: str, virt_type: str) -> LibvirtFacts:
        return LibvirtFacts(
            libvirt_version="10.0.0", qemu_version="9.0.0", arch="x86_64", cpu_model="host", guests=()
        )


class _Facts:
    def __init__(self, reach: Reach, name: str) -> None:
        self.reach, self.name = reach, name

    def facts(self) -> dict[str, Any]:
        if not self.reach.fleet.hosts[self.name].up:
            raise HostUnreachable(f"{self.name}: no answer in time")
        return {**FACTS, "boot_id": self.reach.boots[self.name]}

    def hang_up(self) -> None:
        """Nothing is connected."""


@pytest.fixture
def fleet(quick: Path) -> Any:
    made = SimFleet(quick)
    yield made
    made.close()


def cron(
    fleet: SimFleet, process: Process, known: Any = TASKS, *, reach: Any = None, told: Any = None
) -> Cron:
    return Cron(
        process.world.db,
        fleet.clock,
        lambda: (process.operator, reach or Reach(fleet)),
        known,
        tell=(told if told is not None else []).append,
        chance=lambda: 0.5,
    )


def run(
    fleet: SimFleet, task: str | None = None, *, reach: Any = None, told: Any = None, **how: Any
) -> list[Row]:
    """One cron in a process of its own."""
    with fleet.process("cron") as process:
        one = cron(fleet, process, reach=reach, told=told)
        return one.run_one(task, seconds=3600, **how) if task else one.run(seconds=3600, **how)


def row(fleet: SimFleet, task: str) -> dict[str, Any]:
    with fleet.db.reading() as tx:
        return tasks.all_of(tx)[task]


# --- the frame ---


def with_work(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[Context], Report], **values: Any
) -> tuple[Task, ...]:
    """One task with this work."""
    from novactl.actions.cron import upkeep

    monkeypatch.setattr(upkeep, "leases", work)
    given = {"name": "x", "summary": "", "every": 600, "jitter": 60, "work": "upkeep.leases", **values}
    return (Task(**given),)


def test_a_task_is_done_when_it_is_due(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def work(context: Context) -> Report:
        done.append("x")
        return Report(changes=["a", "b"])

    known = with_work(monkeypatch, work)
    for waits, result in ((0, "done"), (0, "skipped"), (629, "skipped"), (2, "done")):  # 600 + 60 / 2
        fleet.clock.sleep(waits)
        with fleet.process() as process:
            (found,) = cron(fleet, process, known).run(seconds=60)
        assert found.result == result, waits
    assert len(done) == 2 and found.message == "2 changed"
    assert found.due_at is not None and found.started_at is not None
    now = row(fleet, "x")
    assert now["runner"] is None and now["result"] == "done" and now["memory"].succeeded_at is not None


def test_the_operators_wishes(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    known = with_work(monkeypatch, lambda context: Report())
    with fleet.db.writing() as tx:
        settings.put(tx, "cron", {"x": {"every": 60, "jitter": 0, "enabled": True}})
    with fleet.process() as process:
        assert cron(fleet, process, known).run(seconds=60)[0].result == "done"
        fleet.clock.sleep(61)
        assert cron(fleet, process, known).run(seconds=60)[0].result == "done"
        with fleet.db.writing() as tx:
            settings.put(tx, "cron", {"x": {"every": None, "jitter": None, "enabled": False}})
        fleet.clock.sleep(DAY)
        (found,) = cron(fleet, process, known).run(seconds=60)
        assert (found.result, found.message) == ("skipped", "is disabled")
        assert cron(fleet, process, known).run_one("x", seconds=60)[0].result == "done"


def test_a_task_that_fails_says_so_and_keeps_no_other_from_its_work(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(context: Context) -> Report:
        raise ValueError("oops")

    known = (*with_work(monkeypatch, work), *[task for task in TASKS if task.name == "prune-records"])
    told: list[Row] = []
    with fleet.process() as process:
        first, second = cron(fleet, process, known, told=told).run(seconds=60)
    assert (first.result, first.message, second.result) == ("failed", "ValueError: oops", "done")
    assert [one.message for one in first.news] == ["x: ValueError: oops"]
    assert told == [first, second] and row(fleet, "x")["memory"].failed_at is not None
    fleet.clock.sleep(700)
    with fleet.process() as process:
        assert cron(fleet, process, known).run(seconds=60)[0].news == []  # once is enough
    with_work(monkeypatch, lambda context: Report())
    fleet.clock.sleep(700)
    with fleet.process() as process:
        (news,) = cron(fleet, process, known).run(seconds=60)[0].news
    assert (news.state, news.message) == ("over", "over: x: ValueError: oops")


def test_while_another_works_on_it(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[Any] = []

    def work(context: Context) -> Report:
        with fleet.process("other") as process:
            other = cron(fleet, process, known)
            met.extend(other.run(seconds=60))
            with pytest.raises(Busy, match=r"^task x: another novactl works on it$"):
                other.run_one("x", seconds=60)
        return Report()

    known = with_work(monkeypatch, work)
    with fleet.process() as process:
        assert cron(fleet, process, known).run(seconds=60)[0].result == "done"
    assert [(one.result, one.message) for one in met] == [("skipped", "another novactl works on it")]


def test_whoever_dies_with_it_loses_it(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(context: Context) -> Report:
        fleet.clock.sleep(1)
        raise Died("here")

    known = with_work(monkeypatch, work)
    with pytest.raises(Died), fleet.process() as process:
        fleet.living.add(process.life.number)
        cron(fleet, process, known).run(seconds=60)
    with fleet.db.writing() as tx:  # as if it had not lived to say so
        tx.run("UPDATE tasks SET runner = '.gone', lease_until = :until", until=fleet.clock.monotonic() + 60)
    with_work(monkeypatch, lambda context: Report())
    for waits, result in ((30, "skipped"), (31, "done")):
        fleet.clock.sleep(waits)
        with fleet.process() as process:
            assert cron(fleet, process, known).run(seconds=60)[0].result == result


def test_interrupted_it_is_as_due_as_it_was(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    with fleet.process() as process:

        def work(context: Context) -> Report:
            process.interrupt.set()
            assert not context.go_on()
            return Report(partial=True)

        known = with_work(monkeypatch, work)
        with pytest.raises(Interrupted):
            cron(fleet, process, known).run(seconds=60)
    assert row(fleet, "x")["runner"] is None
    with_work(monkeypatch, lambda context: Report())
    with fleet.process() as process:
        assert cron(fleet, process, known).run(seconds=60)[0].result == "done"


def test_no_time_left(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(context: Context) -> Report:
        assert context.go_on()
        fleet.clock.sleep(61)
        return Report(partial=not context.go_on())

    known = (*with_work(monkeypatch, work), *TASKS[:1])
    with fleet.process() as process:
        first, second = cron(fleet, process, known).run(seconds=60)
        assert (first.result, first.cut, first.message) == ("done", True, "not all was done")
        assert (second.result, second.cut, second.message) == ("skipped", True, "no time is left")
        assert cron(fleet, process, known).run(seconds=60)[0].result == "done"  # it goes on at once


def test_unknown_task(fleet: SimFleet) -> None:
    with pytest.raises(NotFound, match=r"^task 'prune-cache' does not exist$") as caught:
        run(fleet, "prune-cache")
    assert caught.value.hint.startswith("did you mean prune-caches")


def test_a_dry_run_changes_nothing(fleet: SimFleet) -> None:
    fleet.hosts["kvm2"].up = False
    with fleet.db.reading() as tx:
        before = tx.all("SELECT * FROM hosts"), tx.all("SELECT * FROM meta"), tx.all("SELECT * FROM tasks")
    rows = run(fleet, dry_run=True)
    assert {one.task: one.result for one in rows if one.task != "policies"}["facts"] == "done"
    facts = next(one for one in rows if one.task == "facts")
    assert facts.attention == ["kvm2: no answer in time"]
    with fleet.db.reading() as tx:
        assert before == (
            tx.all("SELECT * FROM hosts"),
            tx.all("SELECT * FROM meta"),
            tx.all("SELECT * FROM tasks"),
        )


def test_list(fleet: SimFleet) -> None:
    run(fleet, "prune-records")
    with fleet.process() as process:
        found = {one["task"]: one for one in cron(fleet, process).listed()}
    assert set(found) == {task.name for task in TASKS}
    assert (found["prune-records"]["result"], found["facts"]["result"]) == ("done", None)
    assert found["prune-records"]["every_seconds"] == DAY and not found["facts"]["running"]


# --- facts ---


def test_a_host_that_goes_down_is_told_once_and_when_it_is_back(fleet: SimFleet) -> None:
    reach = Reach(fleet)

    def look() -> list[tuple[str, str]]:
        (found,) = run(fleet, "facts", reach=reach)
        return [(one.state, one.message) for one in found.news]

    def state() -> str:
        with fleet.db.reading() as tx:
            return str((tx.one("SELECT state FROM hosts WHERE name = 'kvm2'") or {})["state"])

    assert look() == [] and state() == "up"
    fleet.hosts["kvm2"].up = False
    reach.asked.clear()
    assert look() == [("new", "kvm2: no answer in time")] and state() == "down"
    assert reach.asked.count("kvm2") == 2 and reach.asked.count("kvm1") == 1  # one lost packet is no end
    reach.asked.clear()
    assert look() == [] and reach.asked.count("kvm2") == 1
    fleet.hosts["kvm2"].up = True
    assert look() == [("over", "over: kvm2: no answer in time")] and state() == "up"


def test_facts_are_kept_and_copies_follow_only_what_changed(fleet: SimFleet) -> None:
    reach = Reach(fleet)
    (first,) = run(fleet, "facts", reach=reach)
    assert "kvm1: what is known of it changed" in first.changes

    def catalogue() -> Any:
        with fleet.db.reading() as tx:
            return tx.one("SELECT value FROM meta WHERE name = 'catalogue'")

    before = catalogue()
    fleet.clock.sleep(5)
    (second,) = run(fleet, "facts", reach=reach)
    assert second.changes == [] and catalogue() == before
    reach.boots["kvm1"] = "b2"
    (third,) = run(fleet, "facts", reach=reach)
    assert third.changes == ["kvm1: was started anew", "kvm1: what is known of it changed"]
    assert catalogue() != before
    with fleet.db.reading() as tx:
        found = tx.one("SELECT * FROM hosts WHERE name = 'kvm1'")
    assert found is not None and (found["vcpus"], found["memory_mib"]) == (8, 8192)


def known(fleet: SimFleet) -> dict[str, str]:
    with fleet.db.reading() as tx:
        return {host.name: host.state for host in hosts.everything(tx)}


def test_when_no_host_answers_the_fault_is_ours(fleet: SimFleet) -> None:
    for host in fleet.hosts.values():
        host.up = False
    (found,) = run(fleet, "facts")
    assert found.changes == [] and len(found.attention) == 3
    assert set(known(fleet).values()) == {"up"}
    fleet.hosts["kvm1"].up = True
    run(fleet, "facts")
    assert known(fleet) == {"kvm1": "up", "kvm2": "down", "kvm3": "down"}


@pytest.mark.parametrize("error", [HostUntrusted, HostFault, HostRefused])
def test_a_host_that_refuses_is_told_and_not_down(fleet: SimFleet, error: type[NovactlError]) -> None:
    class Refusing(Reach):
        def libvirt_facts(self, host: str, virt_type: str) -> LibvirtFacts:
            if host == "kvm2":
                raise error("kvm2: no")
            return super().libvirt_facts(host, virt_type)

    (found,) = run(fleet, "facts", reach=Refusing(fleet))
    assert found.attention == ["kvm2: no"] and set(known(fleet).values()) == {"up"}


@pytest.mark.parametrize("answers", [True, False])
def test_a_host_that_is_removed_meanwhile_is_no_row(fleet: SimFleet, answers: bool) -> None:
    class Removing(Reach):
        def libvirt_facts(self, host: str, virt_type: str) -> LibvirtFacts:
            if host == "kvm2":
                fleet.db.write(lambda tx: hosts.remove(tx, host))
                if not answers:
                    raise HostUnreachable("kvm2: no answer in time")
            return super().libvirt_facts(host, virt_type)

    (found,) = run(fleet, "facts", reach=Removing(fleet))
    assert (found.result, found.attention) == ("done", [])
    assert found.changes == [f"{name}: {what}" for name in ("kvm1", "kvm3") for what in FIRST_LOOK]
    assert set(known(fleet)) == {"kvm1", "kvm3"}


def test_what_was_measured_of_a_host_that_is_gone(fleet: SimFleet) -> None:
    """It was removed between the last look at the records and the write."""
    with fleet.db.writing() as tx:
        host = hosts.get(tx, "kvm2")
        hosts.remove(tx, "kvm2")
        assert hosts.measured(tx, host, replace(host, vcpus=99)) is False


def test_a_fenced_host_stays_fenced(fleet: SimFleet) -> None:
    with fleet.db.writing() as tx:
        tx.run("UPDATE hosts SET state = 'fenced' WHERE name = 'kvm1'")
    run(fleet, "facts")
    with fleet.db.reading() as tx:
        assert tx.one("SELECT state FROM hosts WHERE name = 'kvm1'") == {"state": "fenced"}


# --- leases ---


def test_what_was_left_half_way_is_told(fleet: SimFleet) -> None:
    fleet.faults.append(Fault("start", "dies"))
    with pytest.raises(Died):
        fleet.run(boot("web"))
    (op,) = fleet.active()
    (found,) = run(fleet, "leases")
    assert [one.target for one in found.news] == [op]
    assert f"nobody works on it: novactl op resume {op}" in found.news[0].message
    assert fleet.active() == [op]  # told, not touched
    assert run(fleet, "leases")[0].news == []
    fleet.take_over(op, back=True)
    assert [one.state for one in run(fleet, "leases")[0].news] == ["over"]
    assert settled(fleet) == []


# --- prune-caches ---


def test_caches(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    fleet.run(boot("gone", host="kvm2"))
    fleet.run(Delete(name="gone", project="default"))
    assert fleet.hosts["kvm2"].bases
    (found,) = run(fleet, "prune-caches")
    assert found.changes == []  # it was used a moment ago
    fleet.clock.sleep(8 * DAY)
    fleet.hosts["kvm3"].up = False
    (found,) = run(fleet, "prune-caches", dry_run=True)
    assert len(found.changes) == 1 and fleet.hosts["kvm2"].bases
    (found,) = run(fleet, "prune-caches")
    assert len(found.changes) == 1 and found.changes[0].startswith("kvm2: ")
    assert found.attention == ["kvm3: nothing was pruned: kvm3: no answer in time"]
    assert fleet.hosts["kvm1"].bases and not fleet.hosts["kvm2"].bases
    fleet.run(boot("again", host="kvm2"))
    assert fleet.hosts["kvm2"].bases and settled(fleet) == []


def test_caches_of_another_age_and_what_is_shared(fleet: SimFleet) -> None:
    share_images(fleet)
    fill(fleet)
    needed = fleet.db.read(lambda tx: catalogue.image(tx, "tiny")).sums
    fleet.run(boot("gone", host="kvm2"))
    fleet.run(Delete(name="gone", project="default"))
    fleet.clock.sleep(2 * DAY)
    assert run(fleet, "prune-caches")[0].changes == []  # 7 days, when nothing is said
    with fleet.db.writing() as tx:
        settings.put(tx, "cron", {"prune-caches": {"older": 86400}})
    (found,) = run(fleet, "prune-caches", dry_run=True)
    assert len(found.changes) == 2 and fleet.hosts["kvm2"].bases
    (found,) = run(fleet, "prune-caches")
    assert found.changes[0].startswith("kvm2: ") and found.changes[1] == f"{SHARED}: {'ab' * 32}"
    assert not fleet.hosts["kvm2"].bases
    assert {name for _, name in fleet.hosts["kvm3"].stored} == needed
    fleet.hosts["kvm3"].up = False
    (found,) = run(fleet, "prune-caches")
    assert any(line.startswith(f"{SHARED}: nothing was pruned") for line in found.attention)


# --- prune-records ---


def rows(fleet: SimFleet, table: str) -> list[dict[str, Any]]:
    with fleet.db.reading() as tx:
        return tx.all(f"SELECT * FROM {table}")


def months_pass(fleet: SimFleet) -> None:
    """Cron passes a waypoint the next day, and that is 91 days ago now."""
    fleet.clock.sleep(DAY)
    run(fleet, "prune-records")
    fleet.clock.sleep(91 * DAY)


def names(fleet: SimFleet) -> set[str]:
    return {found["kind"] + " " + found["target"] for found in rows(fleet, "operations")}


def test_old_records_go_and_the_hosts_marks_are_not_missed(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    fleet.run(boot("gone", host="kvm2"))
    fleet.run(Delete(name="gone", project="default"))
    months_pass(fleet)
    fleet.run(boot("young", host="kvm3"))
    (found,) = run(fleet, "prune-records")
    assert found.changes[0] == "3 operations older than 90 days"
    assert names(fleet) == {"boot young"}
    assert {step["operation"] for step in rows(fleet, "steps")} == {rows(fleet, "operations")[0]["id"]}
    assert {one["name"] for one in rows(fleet, "instances")} == {"web", "young"}
    assert {one["target"] for one in rows(fleet, "events")} == {"young"}
    # kvm1 and kvm2 remember operations that are gone
    assert fleet.hosts["kvm1"].mark and fleet.hosts["kvm2"].mark
    assert audited(fleet) == []
    assert fleet.run(Stop(name="web", project="default", force=True)).error is None
    assert fleet.run(boot("other", host="kvm2")).error is None
    assert settled(fleet) == []


def test_what_a_restored_database_has_forgotten_is_still_noticed(fleet: SimFleet, quick: Path) -> None:
    fleet.run(boot("web", host="kvm1"))
    months_pass(fleet)
    run(fleet, "prune-records")
    (quick / "twin").mkdir()
    future = fleet.clone(quick / "twin")
    assert future.run(Stop(name="web", project="default", force=True)).error is None
    fleet.hosts = future.hosts  # they went on, and the database is the older copy
    assert not isinstance(run(fleet, "prune-records")[0].error, Refused)
    outcome = fleet.run(Start(name="web", project="default"))
    assert isinstance(outcome.error, Refused) and "older copy" in outcome.error.message
    future.close()


def test_the_marks_of_taking_over_count_too(fleet: SimFleet) -> None:
    """An operation that was taken over late has two marks."""
    fleet.faults.append(Fault("start", "dies"))
    with pytest.raises(Died):
        fleet.run(boot("web", host="kvm1"))
    months_pass(fleet)
    run(fleet, "prune-records")
    assert len(fleet.active()) == 1  # it is old, and it has not ended
    fleet.take_over(fleet.active()[0], back=False)
    run(fleet, "prune-records")
    assert names(fleet) == {"boot web"}
    months_pass(fleet)
    run(fleet, "prune-records")
    assert names(fleet) == set()
    assert fleet.run(Stop(name="web", project="default", force=True)).error is None
    assert settled(fleet) == []


def test_families_go_together(fleet: SimFleet) -> None:
    with fleet.process() as process:
        process.operator.run([boot("a", host="kvm1"), boot("b", host="kvm2")])
    months_pass(fleet)
    with fleet.db.writing() as tx:
        child = tx.all("SELECT id FROM operations WHERE parent IS NOT NULL ORDER BY id")[0]["id"]
        tx.run("UPDATE operations SET finished_at = :now WHERE id = :id", now=fleet.clock.now(), id=child)
    run(fleet, "prune-records")
    assert len(rows(fleet, "operations")) == 3  # one child is young
    months_pass(fleet)
    run(fleet, "prune-records")
    assert rows(fleet, "operations") == [] and rows(fleet, "steps") == []


def test_what_is_not_whole_is_left_to_the_audit(fleet: SimFleet) -> None:
    fleet.run(boot("gone", host="kvm2"))
    fleet.run(Delete(name="gone", project="default"))
    with fleet.db.writing() as tx:
        uuid, op = rows(fleet, "instances")[0]["uuid"], rows(fleet, "operations")[0]["id"]
        tx.insert(
            "holds", instance_uuid=uuid, host="kvm2", role="instance", vcpus=0, memory_mib=0, disk_gib=0
        )
        tx.insert("op_locks", kind="instance", id=uuid, operation=op, mode="X", exclusive=None)
    months_pass(fleet)
    run(fleet, "prune-records")
    assert [found["id"] for found in rows(fleet, "operations")] == [op]
    assert [found["uuid"] for found in rows(fleet, "instances")] == [uuid]


@pytest.mark.parametrize("kind", KINDS)
def test_many_records_in_small_batches(kind: str, quick: Path) -> None:
    fleet = SimFleet(quick, place=place(kind))
    fleet.run(boot("web", host="kvm1"))
    with fleet.db.writing() as tx:
        (one,) = tx.all("SELECT * FROM operations")
        for n in range(450):
            tx.insert("operations", **{**one, "id": f"op-ff{n:04x}", "parent": None})
            tx.insert(
                "events", **{key: one[value] for key, value in EVENT.items()}, result="done", message=""
            )
    months_pass(fleet)
    (found,) = run(fleet, "prune-records", dry_run=True)
    assert found.changes == ["451 operations older than 90 days", "451 events older than 90 days"]
    assert len(rows(fleet, "operations")) == 451
    (found,) = run(fleet, "prune-records")
    assert found.changes == ["451 operations older than 90 days", "451 events older than 90 days"]
    assert rows(fleet, "operations") == [] and rows(fleet, "events") == []
    with fleet.db.reading() as tx:
        assert pruning.floor(tx) > 0 and instances.everything(tx)[0].name == "web"
    fleet.close()


EVENT = {
    "time": "started_at",
    "target_uuid": "target_uuid",
    "target": "target",
    "action": "kind",
    "operation": "id",
    "user": "user",
}


def test_adopting_does_not_bring_back_what_was_pruned(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    months_pass(fleet)
    run(fleet, "prune-records")
    with fleet.db.reading() as tx:
        seen = audit.believed(tx, scratch.FLEET, lambda tx, op: True)
    assert audit.findings(seen, surveys(fleet)) == []
    with fleet.process() as process:
        from novactl.actions.audit import adopt

        assert [change for change in adopt.adopt(process.operator) if change.change == "mark"] == []
