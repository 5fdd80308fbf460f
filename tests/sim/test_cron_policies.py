"""Policies on simulated fleets: kept running, confirmed after a time, and what is done by the clock, once."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from novactl.actions.power import Reboot
from novactl.db import backups, second_copy, settings
from novactl.db.session import Tx
from novactl.errors import NovactlError
from novactl.objects.states import PowerState
from tests.sim.actions import back_up, boot, lock, migrate, reset_state, shelve, start, stop
from tests.sim.test_cron import cron, run
from tests.support.life import Died
from tests.support.sim import Fault, SimFleet, settled

MINUTE = 60.0
AT = 20 * 3600.0  # the simulation begins at midnight


@pytest.fixture
def fleet(quick: Path) -> Any:
    made = SimFleet(quick)
    yield made
    made.close()


def put(fleet: SimFleet, *policies: dict[str, Any]) -> None:
    def work(tx: Tx) -> None:
        settings.put(tx, "policies", list(policies))

    fleet.db.write(work)


KEEP = {"name": "keep", "do": "keep-running", "selector": ["keep"]}
NIGHT = {"name": "night", "do": "stop", "at": "20:00"}
SETTLED = {"name": "settled", "do": "resize-confirm", "after": 3600}


def carry_out(fleet: SimFleet) -> tuple[list[str], list[str]]:
    """What a run of the policies changed, and what needs attention."""
    (found,) = run(fleet, "policies")
    assert found.result == "done", found.message
    return found.changes, found.attention


def states(fleet: SimFleet) -> dict[str, str]:
    with fleet.db.reading() as tx:
        return {row["name"]: row["vm_state"] for row in tx.all("SELECT name, vm_state FROM instances")}


def operations(fleet: SimFleet, kind: str) -> int:
    with fleet.db.reading() as tx:
        return len(tx.all("SELECT id FROM operations WHERE kind = :kind AND parent IS NULL", kind=kind))


def power_off(fleet: SimFleet, host: str) -> None:
    """All guests there end by themselves."""
    for domain in fleet.hosts[host].domains.values():
        domain.state = PowerState.SHUTDOWN


# --- keep-running ---


def test_a_guest_that_went_off_is_started_again(fleet: SimFleet) -> None:
    fleet.run(boot("kept", host="kvm1", tags=("keep",)))
    fleet.run(boot("other", host="kvm1"))
    put(fleet, KEEP)
    assert carry_out(fleet) == ([], [])
    power_off(fleet, "kvm1")
    assert carry_out(fleet) == (["keep: kept went off by itself and is started"], [])
    assert states(fleet) == {"kept": "active", "other": "stopped"}
    assert carry_out(fleet) == ([], [])
    assert settled(fleet) == []


def test_one_that_somebody_stopped_stays_off(fleet: SimFleet) -> None:
    fleet.run(boot("kept", host="kvm1", tags=("keep",)))
    put(fleet, KEEP)
    fleet.run(stop("kept", force=True))
    assert carry_out(fleet) == ([], [])
    fleet.run(start("kept"))
    power_off(fleet, "kvm1")
    run(fleet, "power-states")  # the record says SHUTOFF before the policy looks
    assert states(fleet) == {"kept": "stopped"}
    changes, _ = carry_out(fleet)
    assert len(changes) == 1 and states(fleet) == {"kept": "active"}


def test_locked_ones_and_dead_hosts_are_left_alone(fleet: SimFleet) -> None:
    fleet.run(boot("kept", host="kvm1", tags=("keep",)))
    fleet.run(boot("locked", host="kvm2", tags=("keep",)))
    put(fleet, KEEP)
    with fleet.db.writing() as tx:
        tx.run("UPDATE instances SET locked = 1 WHERE name = 'locked'")
    power_off(fleet, "kvm1")
    power_off(fleet, "kvm2")
    fleet.hosts["kvm1"].up = False
    assert carry_out(fleet) == ([], [])
    fleet.hosts["kvm1"].up = True
    run(fleet, "facts")
    assert carry_out(fleet)[0] == ["keep: kept went off by itself and is started"]


def test_one_that_does_not_stay_on_is_left_off_for_now(fleet: SimFleet) -> None:
    fleet.run(boot("kept", host="kvm1", tags=("keep",)))
    put(fleet, KEEP)
    for _ in range(4):
        power_off(fleet, "kvm1")
        assert len(carry_out(fleet)[0]) == 1
        fleet.clock.sleep(MINUTE)
    power_off(fleet, "kvm1")
    changes, attention = carry_out(fleet)
    assert changes == [] and "went off 5 times within an hour" in attention[0]
    fleet.clock.sleep(60 * MINUTE)
    assert len(carry_out(fleet)[0]) == 1


def test_only_going_off_by_itself_counts(fleet: SimFleet) -> None:
    fleet.run(boot("kept", host="kvm1", tags=("keep",)))
    put(fleet, KEEP)
    for _ in range(5):
        fleet.run(stop("kept", force=True))
        fleet.run(start("kept"))
    power_off(fleet, "kvm1")
    fleet.faults.append(Fault("start", "fails", times=2))
    for _ in range(2):
        assert carry_out(fleet) == ([], ["kept: start of kept: kvm1: start failed"])
    assert carry_out(fleet) == (["keep: kept went off by itself and is started"], [])


def test_one_whose_starts_fail_is_left_off_with_the_error(fleet: SimFleet) -> None:
    fleet.run(boot("kept", host="kvm1", tags=("keep",)))
    put(fleet, KEEP)
    power_off(fleet, "kvm1")
    fleet.faults.append(Fault("start", "fails", times=5))
    for _ in range(5):
        assert carry_out(fleet) == ([], ["kept: start of kept: kvm1: start failed"])
    words = "could not be started 5 times within an hour and is left off for now"
    assert carry_out(fleet) == ([], [f"kept: {words}: kvm1: start failed"])
    assert operations(fleet, "start") == 5
    fleet.clock.sleep(61 * MINUTE)
    assert carry_out(fleet) == (["keep: kept went off by itself and is started"], [])


def test_one_that_cannot_be_started_is_a_concern_until_it_can(fleet: SimFleet) -> None:
    fleet.run(boot("kept", host="kvm1", tags=("keep",)))
    put(fleet, KEEP)
    power_off(fleet, "kvm1")
    fleet.faults.append(Fault("start", "fails", times=2))
    (first,) = run(fleet, "policies")
    assert first.attention == [first.news[0].message] and "start failed" in first.attention[0]
    assert run(fleet, "policies")[0].news == []
    assert [one.state for one in run(fleet, "policies")[0].news] == ["over"]
    assert settled(fleet) == []


# --- shelve-offload ---


def test_one_that_was_shelved_long_enough_leaves_its_host(fleet: SimFleet) -> None:
    assert fleet.run(boot("web", host="kvm1")).code == 0 and fleet.run(shelve("web")).code == 0
    put(fleet, {"name": "away", "do": "shelve-offload", "after": 3600})
    fleet.clock.sleep(59 * MINUTE)
    assert carry_out(fleet) == ([], []) and states(fleet) == {"web": "shelved"}
    fleet.clock.sleep(2 * MINUTE)
    fleet.run(lock("web"))
    assert carry_out(fleet) == ([], ["web: it does not leave its host: is locked"])
    fleet.run(lock("web", locked=False))
    assert carry_out(fleet) == (["away: shelve-offload web"], [])
    assert states(fleet) == {"web": "shelved_offloaded"} and settled(fleet) == []
    assert carry_out(fleet) == ([], [])


# --- resize-confirm ---


@pytest.fixture
def moved(fleet: SimFleet) -> SimFleet:
    """A migrated instance that waits to be confirmed, and the policy that does it after an hour."""
    fleet.run(boot("web", host="kvm1", metadata={"role": "web"}))
    assert fleet.run(migrate("web", host="kvm2")).code == 0
    put(fleet, SETTLED)
    return fleet


def test_a_move_is_confirmed_when_it_has_waited(moved: SimFleet) -> None:
    moved.clock.sleep(59 * MINUTE)
    assert carry_out(moved) == ([], []) and states(moved) == {"web": "resized"}
    moved.clock.sleep(2 * MINUTE)
    (shown,) = run(moved, "policies", dry_run=True)
    assert shown.changes == ["settled: resize-confirm web"] and operations(moved, "resize-confirm") == 0
    assert carry_out(moved) == (["settled: resize-confirm web"], [])
    assert states(moved) == {"web": "active"} and operations(moved, "resize-confirm") == 1
    assert moved.hosts["kvm1"].directories == {} and settled(moved) == []
    assert carry_out(moved) == ([], [])


def test_one_that_cannot_be_confirmed_is_told_with_the_reason(moved: SimFleet) -> None:
    words = "web: its move is not confirmed: "
    moved.clock.sleep(61 * MINUTE)
    moved.run(lock("web"))
    assert carry_out(moved) == ([], [words + "is locked"])
    moved.run(lock("web", locked=False))
    moved.run(reset_state("error", "web"))
    assert carry_out(moved) == ([], [words + "is ERROR"])
    moved.db.write(lambda tx: tx.run("UPDATE instances SET vm_state = 'resized', task_state = NULL"))
    moved.hosts["kvm1"].up = False
    changes, attention = carry_out(moved)
    assert changes == [] and attention[0].startswith(words + "kvm1: ")
    moved.hosts["kvm1"].up = True
    assert carry_out(moved) == (["settled: resize-confirm web"], [])


def test_one_that_is_worked_on_is_not_confirmed(moved: SimFleet) -> None:
    moved.clock.sleep(61 * MINUTE)
    with moved.db.writing() as tx:
        uuid = (tx.one("SELECT uuid FROM instances") or {})["uuid"]
        op = (tx.one("SELECT id FROM operations WHERE kind = 'migrate'") or {})["id"]
        tx.insert("op_locks", kind="instance", id=uuid, operation=op, mode="X", exclusive=f"instance/{uuid}")
    assert carry_out(moved) == ([], [f"web: its move is not confirmed: operation {op} works on it"])


def test_only_moves_of_those_that_it_is_about(moved: SimFleet) -> None:
    moved.clock.sleep(61 * MINUTE)
    for other in ({"selector": ["role=db"]}, {"on": "kvm1"}, {"project": "other"}):
        put(moved, {**SETTLED, **other})
        assert carry_out(moved) == ([], [])
    put(moved, {**SETTLED, "selector": ["role=web"], "on": "kvm2"})
    assert carry_out(moved)[0] == ["settled: resize-confirm web"]


def test_a_confirm_that_is_killed_is_gone_on_with(moved: SimFleet) -> None:
    moved.clock.sleep(61 * MINUTE)
    moved.faults.append(Fault("clean_up", "dies-after", host="kvm1"))
    with pytest.raises(Died):
        run(moved, "policies")
    moved.clock.sleep(2 * MINUTE)
    for op in left(moved):
        moved.take_over(op, back=False)
    assert carry_out(moved)[1] == [] and states(moved) == {"web": "active"}
    assert operations(moved, "resize-confirm") == 1 and settled(moved) == []


# --- by the clock ---


def test_once_a_day(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    put(fleet, NIGHT)
    assert carry_out(fleet) == ([], [])
    fleet.clock.sleep(AT + 20 * MINUTE)  # cron is late
    assert carry_out(fleet) == (["night: stop web"], [])
    fleet.run(start("web"))  # somebody wants it nevertheless
    fleet.clock.sleep(MINUTE)
    assert carry_out(fleet) == ([], [])
    fleet.clock.sleep(86400)
    assert carry_out(fleet) == (["night: stop web"], [])
    assert settled(fleet) == []


def test_reboot_happens_once(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    fleet.run(boot("off", host="kvm1"))
    fleet.run(stop("off", force=True))
    put(fleet, {**NIGHT, "do": "reboot"})
    fleet.clock.sleep(AT + MINUTE)
    assert carry_out(fleet) == (["night: reboot web"], [])
    assert carry_out(fleet) == ([], [])
    assert operations(fleet, "reboot") == 1
    assert states(fleet) == {"web": "active", "off": "stopped"}


def test_one_that_was_rebooted_since_is_done(fleet: SimFleet) -> None:
    """Whoever dies before a reboot is remembered does not make it happen twice."""
    fleet.run(boot("web", host="kvm1"))
    put(fleet, {**NIGHT, "do": "reboot"})
    fleet.clock.sleep(AT + MINUTE)
    fleet.run(Reboot(name="web", project="default"))
    assert carry_out(fleet) == ([], [])
    assert operations(fleet, "reboot") == 1


def test_too_late(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    put(fleet, NIGHT)
    fleet.clock.sleep(AT + 61 * MINUTE)
    assert carry_out(fleet) == ([], [])
    assert states(fleet) == {"web": "active"}


def test_killed_half_way_it_goes_on_and_does_nothing_twice(fleet: SimFleet) -> None:
    for n in (1, 2, 3):
        fleet.run(boot(f"web{n}", host=f"kvm{n}"))
    put(fleet, NIGHT)
    fleet.clock.sleep(AT + MINUTE)
    fleet.faults.append(Fault("shutdown", "dies-after", host="kvm2"))
    with pytest.raises(Died):
        run(fleet, "policies")
    fleet.clock.sleep(2 * MINUTE)  # the lease is over
    for op in fleet.active():
        with fleet.db.reading() as tx:
            parent = tx.one("SELECT parent FROM operations WHERE id = :id", id=op)
        if parent == {"parent": None}:
            fleet.take_over(op, back=False)
    carry_out(fleet)
    assert set(states(fleet).values()) == {"stopped"}
    with fleet.db.reading() as tx:
        done = tx.all("SELECT target FROM events WHERE action = 'stop' AND result = 'done' ORDER BY target")
    assert [row["target"] for row in done] == ["web1", "web2", "web3"]
    assert settled(fleet) == []


def left(fleet: SimFleet) -> list[str]:
    """Operations without a parent that have not ended."""
    with fleet.db.reading() as tx:
        rows = tx.all("SELECT id FROM operations WHERE parent IS NULL AND finished_at IS NULL ORDER BY id")
    return [row["id"] for row in rows]


@pytest.mark.parametrize("instant", ["before-write", "after-write"])
def test_killed_at_each_write(fleet: SimFleet, tmp_path: Path, instant: str) -> None:
    """Whatever cron was at when it died is in the journal or not begun; the next one does the rest, once."""
    for n in (1, 2):
        fleet.run(boot(f"web{n}", host=f"kvm{n}", tags=("keep",)))
    fleet.run(boot("dev", host="kvm3", tags=("dev",)))
    put(fleet, KEEP, {**NIGHT, "selector": ["dev"]})
    fleet.clock.sleep(AT + MINUTE)
    power_off(fleet, "kvm1")
    power_off(fleet, "kvm2")
    deaths = survived = write = 0
    while survived < 5:  # in a row: its threads write at the same time, so that some instants are missed
        write += 1
        (tmp_path / str(write)).mkdir()
        future = fleet.clone(tmp_path / str(write))
        try:
            with future.process("cron", dies_at=(instant, write)) as process:
                cron(future, process).run_one("policies", seconds=3600)
        except Died:
            deaths += 1
            survived = -1
        survived += 1
        future.clock.sleep(2 * MINUTE)  # its leases are over
        for op in left(future):
            with contextlib.suppress(NovactlError):
                future.take_over(op, back=False)
        carry_out(future)
        assert states(future) == {"web1": "active", "web2": "active", "dev": "stopped"}, write
        assert settled(future) == [], write
        with future.db.reading() as tx:
            stops = tx.all("SELECT id FROM operations WHERE kind = 'stop' AND state = 'done'")
        assert len(stops) == 1
        future.close()
    assert deaths > 10


def test_one_that_is_busy_is_tried_again_and_told_at_last(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    put(fleet, NIGHT)
    fleet.clock.sleep(AT)
    with fleet.db.writing() as tx:
        uuid = (tx.one("SELECT uuid FROM instances") or {})["uuid"]
        op = (tx.one("SELECT id FROM operations") or {})["id"]
        tx.insert("op_locks", kind="instance", id=uuid, operation=op, mode="X", exclusive=f"instance/{uuid}")
    for wait in (MINUTE, 10 * MINUTE):
        fleet.clock.sleep(wait)
        assert carry_out(fleet) == ([], [])
    fleet.clock.sleep(45 * MINUTE)
    changes, attention = carry_out(fleet)
    assert changes == [] and attention[0].startswith("policy night: web: instance is held by boot of web")
    assert carry_out(fleet) == ([], [])  # told once, and over
    fleet.db.write(lambda tx: tx.run("DELETE FROM op_locks"))
    assert carry_out(fleet) == ([], [])


def test_one_that_is_being_worked_on_is_not_forgotten(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    put(fleet, NIGHT)
    fleet.clock.sleep(AT + MINUTE)
    fleet.faults.append(Fault("shutdown", "dies-after"))
    with pytest.raises(Died):
        fleet.run(Reboot(name="web", project="default"))
    assert carry_out(fleet) == ([], [])
    (op,) = fleet.active()
    fleet.take_over(op, back=False)
    assert states(fleet) == {"web": "active"}
    assert carry_out(fleet) == (["night: stop web"], [])


def test_only_those_that_it_is_about(fleet: SimFleet) -> None:
    fleet.run(boot("a", host="kvm1", metadata={"role": "web"}))
    fleet.run(boot("b", host="kvm2", metadata={"role": "web"}))
    fleet.run(boot("c", host="kvm1", metadata={"role": "db"}))
    put(fleet, {**NIGHT, "selector": ["role=web"], "on": "kvm1"})
    fleet.clock.sleep(AT + MINUTE)
    assert carry_out(fleet)[0] == ["night: stop a"]
    assert states(fleet) == {"a": "stopped", "b": "active", "c": "active"}


def test_a_dry_run_of_policies(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    put(fleet, NIGHT)
    fleet.clock.sleep(AT + MINUTE)
    (found,) = run(fleet, "policies", dry_run=True)
    assert found.changes == ["night: stop web"] and states(fleet) == {"web": "active"}
    assert carry_out(fleet)[0] == ["night: stop web"]


# --- power states, copies ---


def test_records_follow_the_hosts(fleet: SimFleet) -> None:
    fleet.run(boot("web", host="kvm1"))
    fleet.run(boot("lost", host="kvm2"))
    power_off(fleet, "kvm1")
    fleet.hosts["kvm2"].domains.clear()
    fleet.hosts["kvm3"].up = False  # which is the concern of facts
    (found,) = run(fleet, "power-states")
    assert found.changes == ["web: ACTIVE -> SHUTOFF"]
    assert found.attention == ["lost: kvm2 has no domain of it: novactl audit"]


def test_old_copies_are_brought_up_to_date(fleet: SimFleet) -> None:
    fleet.db.write(second_copy.changed)
    newest = fleet.db.read(second_copy.version)
    fleet.hosts["kvm3"].up = False
    (found,) = run(fleet, "second-copies")
    assert len(found.changes) == 2 and found.attention == []
    assert {name: host.copy[0] for name, host in fleet.hosts.items()} == {
        "kvm1": newest,
        "kvm2": newest,
        "kvm3": 0,
    }
    assert run(fleet, "second-copies")[0].changes == []


# --- backup ---

DAILY = {"name": "daily", "do": "backup", "at": "20:00", "type": "daily", "rotate": 2}
WEEKLY = {**DAILY, "name": "weekly", "type": "weekly", "rotate": 1}


def kept(fleet: SimFleet) -> list[tuple[str, str]]:
    with fleet.db.reading() as tx:
        return [(one.name, one.kind) for one in backups.everything(tx) if one.rotated_at is None]


def test_backups_by_the_clock_rotate(fleet: SimFleet) -> None:
    """Of two policies at the same time each makes its own; a locked instance has some, too."""
    fleet.run(boot("web1"))
    assert fleet.run(lock("web1")).code == 0
    put(fleet, DAILY, WEEKLY)
    assert carry_out(fleet) == ([], [])
    for day in range(3):
        fleet.clock.sleep(AT + day * 86400.0 - fleet.clock.monotonic())
        made = (["daily: backup web1", "weekly: backup web1"], [])
        assert carry_out(fleet) == made
        assert carry_out(fleet) == ([], [])
    daily = [name for name, _ in kept(fleet) if "daily" in name]
    assert len(daily) == 2 and all(name.endswith("T2000") for name in daily)
    assert [kind for _, kind in kept(fleet)].count("full") == 2  # the third day's daily begins anew
    assert settled(fleet) == []


def test_a_backup_that_was_made_by_hand_counts(fleet: SimFleet) -> None:
    fleet.run(boot("web1"))
    put(fleet, DAILY)
    fleet.clock.sleep(AT + 60 - fleet.clock.monotonic())
    assert fleet.run(back_up("mine")).code == 0
    assert carry_out(fleet) == ([], [])
    assert kept(fleet) == [("mine", "full")]
