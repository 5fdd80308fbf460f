"""What hosts say of their guests becomes the record, unless somebody is at work on it."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from novactl.actions.refresh import Change, Row, refresh
from novactl.db import hosts, instances, second_copy
from novactl.db.operations import events
from novactl.errors import HostRefused, HostUnreachable, HostUntrusted, NotFound, NovactlError, Refused
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, VmState
from tests.sim.actions import boot, stop
from tests.support.sim import Fault, SimFleet, settled
from tests.support.toys import DieAt, Died


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    """web1 on kvm1, web2 on kvm2, web3 on kvm3."""
    made = SimFleet(quick)
    for n in (1, 2, 3):
        assert made.run(boot(f"web{n}", host=f"kvm{n}")).code == 0
    yield made
    made.close()


def instance(fleet: SimFleet, name: str = "web1") -> Instance:
    with fleet.db.reading() as tx:
        return instances.find(tx, name, "default")


def power(fleet: SimFleet, name: str, state: PowerState, *, saved: bool = False) -> None:
    """Something that is not novactl did it on the host."""
    found = instance(fleet, name)
    domain = fleet.hosts[str(found.host)].domains[found.uuid]
    domain.state, domain.saved = state, saved


def refreshed(fleet: SimFleet, *names: str, deadline: float = 15.0) -> dict[str, Row]:
    with fleet.process() as process:
        rows = refresh(process.world, names or None, user="ann", deadline=deadline)
    assert [row.host for row in rows] == sorted(names or fleet.hosts)
    return {row.host: row for row in rows}


def error(row: Row) -> NovactlError:
    assert row.error is not None
    assert (row.states, row.changes, row.missing, row.ok) == (None, (), (), False)
    return row.error


def test_nothing_is_written_when_all_is_as_recorded(fleet: SimFleet) -> None:
    before = instance(fleet)
    rows = refreshed(fleet)
    assert all(row.ok and row.changes == () and row.missing == () for row in rows.values())
    assert instance(fleet) == before
    with fleet.db.reading() as tx:
        assert [event["action"] for event in events(tx, before.uuid)] == ["boot"]


@pytest.mark.parametrize(
    ("state", "saved", "status"),
    [
        (PowerState.SHUTDOWN, False, "SHUTOFF"),
        (PowerState.CRASHED, False, "SHUTOFF"),
        (PowerState.PAUSED, False, "PAUSED"),
        (PowerState.SUSPENDED, False, "SUSPENDED"),
        (PowerState.SHUTDOWN, True, "SUSPENDED"),
    ],
)
def test_the_record_follows_the_host(fleet: SimFleet, state: PowerState, saved: bool, status: str) -> None:
    before = instance(fleet)
    power(fleet, "web1", state, saved=saved)
    rows = refreshed(fleet)
    assert rows["kvm1"].changes == (Change(uuid=before.uuid, name="web1", before="ACTIVE", after=status),)
    assert (rows["kvm2"].changes, rows["kvm3"].changes) == ((), ())
    after = instance(fleet)
    assert (after.status, after.power_state, after.version) == (status, state, before.version + 1)
    with fleet.db.reading() as tx:
        last = events(tx, before.uuid)[-1]
    assert (last["action"], last["operation"], last["result"], last["user"]) == (
        "power-seen",
        None,
        status.lower(),
        "ann",
    )
    assert last["message"] == f"kvm1 says {state}{' (saved)' if saved else ''}: ACTIVE -> {status}"
    assert refreshed(fleet)["kvm1"].changes == ()  # once
    power(fleet, "web1", PowerState.RUNNING)
    assert refreshed(fleet, "kvm1")["kvm1"].changes[0].after == "ACTIVE"
    assert settled(fleet) == []


def test_only_the_hosts_named_are_asked(fleet: SimFleet) -> None:
    power(fleet, "web1", PowerState.SHUTDOWN)
    calls = len(fleet.hosts["kvm1"].calls)
    assert refreshed(fleet, "kvm2", "kvm3")["kvm2"].ok
    assert len(fleet.hosts["kvm1"].calls) == calls
    assert instance(fleet).status == "ACTIVE"
    with pytest.raises(NotFound, match=r"^host 'kvm9' does not exist$") as caught:
        refreshed(fleet, "kvm1", "kvm9")
    assert caught.value.code == 4


@pytest.mark.parametrize("state", [VmState.ERROR, VmState.RESCUED, VmState.RESIZED, VmState.BUILDING])
def test_other_states_are_novactls_own(fleet: SimFleet, state: VmState) -> None:
    with fleet.db.writing() as tx:
        instances.update(tx, instance(fleet).uuid, vm_state=state)
    power(fleet, "web1", PowerState.SHUTDOWN)
    before = instance(fleet)
    assert refreshed(fleet)["kvm1"].changes == ()
    assert instance(fleet) == before


@pytest.mark.parametrize(("point", "step"), [("after-intent", 2), ("before-intent", 1)])
def test_what_an_operation_works_on_is_left(fleet: SimFleet, point: str, step: int) -> None:
    """Also before its step has set a task, and after its process died."""
    with pytest.raises(Died):
        fleet.run(stop("web1"), failpoints=DieAt(point, step))
    power(fleet, "web1", PowerState.PAUSED)
    before = instance(fleet)
    assert refreshed(fleet)["kvm1"].changes == ()
    assert instance(fleet) == before


def test_nothing_written_meanwhile_is_lost(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the record somebody stopped it."""
    power(fleet, "web1", PowerState.PAUSED)
    with fleet.process() as process:
        asked = process.world.hypervisor

        def late(host: str) -> object:
            if host == "kvm1":
                with fleet.db.writing() as tx:
                    instances.update(tx, instance(fleet).uuid, metadata='{"a": "b"}')
            return asked(host)

        world = replace(process.world, hypervisor=late)
        rows = refresh(world, ["kvm1"], user="ann")
    assert rows[0].changes == ()
    found = instance(fleet)
    assert (found.status, found.metadata) == ("ACTIVE", {"a": "b"})
    assert refreshed(fleet)["kvm1"].changes[0].after == "PAUSED"  # the next one sees it
    assert instance(fleet).metadata == {"a": "b"}


def test_a_missing_domain_is_told_and_stays(fleet: SimFleet) -> None:
    before = instance(fleet)
    del fleet.hosts["kvm1"].domains[before.uuid]
    row = refreshed(fleet)["kvm1"]
    assert (row.ok, row.missing, row.changes) == (True, ("web1",), ())
    assert instance(fleet) == before


def test_hosts_are_up_or_down(fleet: SimFleet) -> None:
    with fleet.db.reading() as tx:
        catalogue = second_copy.version(tx)
    fleet.hosts["kvm2"].up = False
    power(fleet, "web1", PowerState.SHUTDOWN)
    rows = refreshed(fleet)
    assert error(rows["kvm2"]).message == "kvm2: no answer in time"
    assert isinstance(rows["kvm2"].error, HostUnreachable)
    assert rows["kvm1"].changes[0].after == "SHUTOFF"  # the others are done all the same
    assert instance(fleet, "web2").status == "ACTIVE"  # nothing is known of it
    with fleet.db.reading() as tx:
        found = {host.name: (host.state, host.checked_at is not None) for host in hosts.everything(tx)}
        assert found == {"kvm1": ("up", True), "kvm2": ("down", True), "kvm3": ("up", True)}
        assert second_copy.version(tx) == catalogue  # five hundred hosts get no new copy of this
    fleet.hosts["kvm2"].up = True
    assert refreshed(fleet)["kvm2"].ok
    with fleet.db.reading() as tx:
        assert hosts.get(tx, "kvm2").state == "up"


def test_when_nobody_answers_the_fault_is_ours(fleet: SimFleet) -> None:
    for host in fleet.hosts.values():
        host.up = False
    assert all(error(row).code == 7 for row in refreshed(fleet).values())
    with fleet.db.reading() as tx:
        assert {host.state for host in hosts.everything(tx)} == {"up"}
    assert error(refreshed(fleet, "kvm1")["kvm1"]).code == 7  # of one alone it is
    with fleet.db.reading() as tx:
        assert [host.state for host in hosts.everything(tx)] == ["down", "up", "up"]


def test_a_host_that_does_not_trust_us_is_not_down(fleet: SimFleet) -> None:
    with fleet.process() as process:
        asked = process.world.hypervisor

        def refused(host: str) -> object:
            if host == "kvm1":
                raise HostUntrusted("kvm1: it accepts none of your keys")
            return asked(host)

        rows = refresh(replace(process.world, hypervisor=refused), user="ann")
    assert error(rows[0]).code == 7
    with fleet.db.reading() as tx:
        assert hosts.get(tx, "kvm1").state == "up"


def test_a_fenced_host_stays_fenced(fleet: SimFleet) -> None:
    with fleet.db.writing() as tx:
        hosts.update(tx, "kvm1", state="fenced")
    assert refreshed(fleet)["kvm1"].ok
    fleet.hosts["kvm1"].up = False
    refreshed(fleet)
    with fleet.db.reading() as tx:
        assert hosts.get(tx, "kvm1").state == "fenced"


def test_a_host_of_another_fleet(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].fleet = "another"
    row = refreshed(fleet)["kvm1"]
    assert isinstance(row.error, HostRefused)
    assert error(row).code == 5
    assert error(row).message == "kvm1: this host is not enrolled in this fleet"


def test_a_reboot_is_told_once(fleet: SimFleet) -> None:
    assert not any(row.rebooted for row in refreshed(fleet).values())  # its boot was not known before
    fleet.hosts["kvm1"].power_cycle()
    rows = refreshed(fleet)
    assert [name for name, row in rows.items() if row.rebooted] == ["kvm1"]
    assert rows["kvm1"].changes[0].after == "SHUTOFF"
    assert not any(row.rebooted for row in refreshed(fleet).values())


def test_an_older_copy_of_the_database_is_noticed(fleet: SimFleet) -> None:
    fleet.hosts["kvm2"].mark = "000000000099.op-ffff"
    power(fleet, "web1", PowerState.SHUTDOWN)
    message = r"^the database is an older copy: host kvm2 has seen operation op-ffff, which is not in it$"
    with pytest.raises(Refused, match=message) as caught:
        refreshed(fleet)
    assert caught.value.code == 5
    assert instance(fleet).status == "ACTIVE"


def test_one_that_never_answers_delays_no_other(fleet: SimFleet) -> None:
    power(fleet, "web1", PowerState.SHUTDOWN)
    released = threading.Event()
    with fleet.process() as process:
        asked = process.world.hypervisor

        def slow(host: str) -> object:
            if host == "kvm2":
                released.wait(30)
            return asked(host)

        began = time.monotonic()
        world = replace(process.world, hypervisor=slow)
        rows = {row.host: row for row in refresh(world, user="ann", deadline=0.5, at_once=1)}
        assert time.monotonic() - began < 5
        released.set()
    assert error(rows["kvm2"]).message == "kvm2: no answer within 0.5 s"
    assert (error(rows["kvm2"]).code, rows["kvm3"].ok) == (7, True)
    assert rows["kvm1"].changes[0].after == "SHUTOFF"


def test_an_unknown_fault_of_one_host_alone(fleet: SimFleet) -> None:
    fleet.faults.append(Fault("states", "fails", host="kvm3"))
    rows = refreshed(fleet)
    assert (error(rows["kvm3"]).code, error(rows["kvm3"]).message) == (1, "kvm3: states failed")
    assert rows["kvm1"].ok
    with fleet.db.reading() as tx:
        assert hosts.get(tx, "kvm3").state == "up"  # it answers
