"""What of a host is set aside, what of its cells instances hold, and what is left for the others."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from novactl.actions import placement
from novactl.actions.capacity import capacity
from novactl.actions.hardware import cells_for, dedicated, with_cells
from novactl.db import adopted, catalogue, health, hosts, instances
from novactl.db.session import Database, dumps
from novactl.errors import NoValidHost, Refused, UsageError
from novactl.objects.host import Resources
from novactl.objects.instance import Instance
from novactl.objects.numa import Fit
from novactl.objects.request import BootRequest
from novactl.objects.states import PowerState
from novactl.virt.domain import record
from tests.support import fleet

TOPOLOGY = [
    {"id": 0, "cores": "0 1", "memory_mib": 2048, "pages": {}},
    {"id": 1, "cores": "2 3", "memory_mib": 2048, "pages": {"2048": 512}},
]
PINNED = fleet.flavor("pinned", vcpus=2, extra_specs={"hw:cpu_policy": "dedicated"})


@pytest.fixture
def db(db: Database) -> Database:
    fleet.furnish(db, facts={"topology": TOPOLOGY}, cpu_ratio=1.0, huge_memory_mib=1024)
    return db


def aside(db: Database, cpus: str | None) -> None:
    with db.writing() as tx:
        hosts.update(tx, "kvm1", **dedicated(tx, hosts.get(tx, "kvm1"), cpus))


def pinned(db: Database, number: int = 1, **values: Any) -> Instance:
    """A guest as boot would leave it."""
    made = fleet.add_instance(db, fleet.instance(number, flavor=PINNED, host="kvm1", **values))
    with db.writing() as tx:
        numa = cells_for(tx, hosts.get(tx, "kvm1"), made)
        assert hosts.claim(tx, "kvm1", made.uuid, made.resources, numa=dumps(numa))
    return replace(made, numa=numa)


def test_dedicated_processors_leave_the_shared_pool(db: Database) -> None:
    aside(db, "3,2")
    with db.writing() as tx:
        host = hosts.get(tx, "kvm1")
        assert (host.dedicated_cpus, host.dedicated_vcpus) == ("2-3", 2)
        assert host.capacity()["vcpus"] == 2.0 == health.hosts(tx)[0]["capacity"]["vcpus"]
        assert (
            host.capacity()["memory_mib"]
            == health.hosts(tx)[0]["capacity"]["memory_mib"]
            == 4096 - 512 - 1024
        )
        assert not hosts.claim(tx, "kvm1", "a", Resources(vcpus=3, memory_mib=1, disk_gib=0))
        assert hosts.claim(tx, "kvm1", "a", Resources(vcpus=2, memory_mib=1, disk_gib=0))
    aside(db, "")
    with db.writing() as tx:
        assert (hosts.get(tx, "kvm1").dedicated_cpus, hosts.get(tx, "kvm1").dedicated_vcpus) == (None, 0)
        assert hosts.claim(tx, "kvm1", "b", Resources(vcpus=2, memory_mib=1, disk_gib=0))


@pytest.mark.parametrize(
    ("cpus", "error", "message"),
    [
        ("2-5", Refused, "host kvm1 has no cpu 4-5: it has 0-3"),
        ("0-3", Refused, "host kvm1: no cpu is left for itself and for guests that share"),
        ("a", UsageError, "cpus 'a' are not acceptable"),
        ("3", Refused, f"host kvm1: cpu 2 is held by instance {fleet.uuid(1)}"),
        ("", Refused, f"host kvm1: cpu 2-3 is held by instance {fleet.uuid(1)}"),
    ],
)
def test_what_cannot_be_set_aside(db: Database, cpus: str, error: Any, message: str) -> None:
    aside(db, "2-3")
    pinned(db)
    with pytest.raises(error) as caught:
        aside(db, cpus)
    assert (caught.value.message, caught.value.code) == (message, error.code)
    aside(db, "1-3")  # more is fine


def test_nothing_is_set_aside_on_a_host_that_is_not_known(db: Database) -> None:
    with db.writing() as tx:
        hosts.update(tx, "kvm1", facts={})
    with pytest.raises(Refused, match=r"^host kvm1: its processors are not known yet$") as caught:
        aside(db, "1")
    assert caught.value.hint == "novactl host check kvm1"
    aside(db, "")


def test_an_instance_knows_its_cells_from_its_hold(db: Database) -> None:
    aside(db, "2-3")
    made = pinned(db)
    cell = {"cell": 1, "vcpus": [0, 1], "cpus": {"0": 2, "1": 3}, "memory_mib": 512, "page_kib": 0}
    assert made.numa == {"cells": [cell]}
    with db.writing() as tx:
        assert instances.get(tx, made.uuid) == made
        assert hosts.numa_holds(tx, "kvm1") == [(made.uuid, made.numa)]
        assert hosts.get(tx, "kvm1").used() == {"vcpus": 0, "memory_mib": 512, "disk_gib": 1}
        other = fleet.instance(2, flavor=PINNED)
        with pytest.raises(Refused, match=r"^kvm1: dedicated cpus: 2 wanted, 0 free .* \(2 of 2 held\)$"):
            cells_for(tx, hosts.get(tx, "kvm1"), other)
        assert cells_for(tx, hosts.get(tx, "kvm1"), made) == made.numa  # its own is not another's
        hosts.release(tx, "kvm1", made.uuid)
        assert cells_for(tx, hosts.get(tx, "kvm1"), other) == made.numa
        found = instances.get(tx, made.uuid)
        assert found.numa is None
        with pytest.raises(Refused, match=r"^web1: has no claim on kvm1 that its cells could stand in$"):
            with_cells(tx, found)


def test_one_that_has_no_cells_yet_gets_them_when_it_starts(db: Database) -> None:
    aside(db, "2-3")
    old = fleet.add_instance(db, fleet.instance(1, flavor=PINNED, host="kvm1"))
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm1", old.uuid, Resources(vcpus=2, memory_mib=512, disk_gib=1))
        assert with_cells(tx, fleet.instance(2)) == fleet.instance(2)
        now = with_cells(tx, old)
        assert now.numa is not None and Fit.from_dict(now.numa).pinned == {2, 3}
        assert instances.get(tx, old.uuid) == now == with_cells(tx, now)
        assert hosts.get(tx, "kvm1").used() == {"vcpus": 0, "memory_mib": 512, "disk_gib": 1}


def test_no_question_is_asked_about_those_that_have_none(db: Database, monkeypatch: Any) -> None:
    fleet.add_instance(db, fleet.instance(1, image=fleet.image(properties={"hw_disk_bus": "scsi"})))
    asked: list[str] = []
    with db.reading() as tx:
        real = tx.all
        monkeypatch.setattr(tx, "all", lambda sql, **values: (asked.append(sql), real(sql, **values))[1])
        instances.everything(tx)
    assert len(asked) == 2 and not any("holds" in sql for sql in asked)


def test_a_record_on_a_host_brings_its_cells_back(db: Database) -> None:
    aside(db, "2-3")
    made = pinned(db)
    told = record(made)
    with db.writing() as tx:
        hosts.release(tx, "kvm1", made.uuid)
        instances.bury(tx, made.uuid, fleet.WHEN, None)
        tx.run("DELETE FROM instances")
        back = adopted.restore_instance(tx, told, host="kvm1", power=PowerState.RUNNING, epoch=1)
        assert back.numa == made.numa and hosts.numa_holds(tx, "kvm1") == [(made.uuid, made.numa)]


@pytest.mark.parametrize("numa", [{"cells": []}, {"cells": [{"cell": -1}]}, "x", [1]])
def test_a_record_with_cells_that_a_host_made_up(db: Database, numa: Any) -> None:
    told = {**record(fleet.instance(1, flavor=PINNED)), "numa": numa}
    with pytest.raises(Refused, match=r"^the record of 'web1' on kvm1 makes no sense: "):
        adopted.instance_of(told, host="kvm1", power=PowerState.RUNNING, epoch=1)
    plain = {**told, "flavor": fleet.flavor().as_dict()}
    assert adopted.instance_of(plain, host="kvm1", power=PowerState.RUNNING, epoch=1).numa is None


def test_a_claim_holds_the_cells_and_says_which(db: Database) -> None:
    aside(db, "2-3")
    made = fleet.instance(1, flavor=PINNED)
    with db.writing() as tx:
        claimed = placement.claim(tx, made)
        assert claimed.numa is not None and Fit.from_dict(claimed.numa).pinned == {2, 3}
        assert hosts.numa_holds(tx, "kvm1") == [(made.uuid, claimed.numa)]
        plain = placement.claim(tx, fleet.instance(2))
        assert (plain.host, plain.numa) == ("kvm1", None)
        with pytest.raises(
            NoValidHost, match=r"dedicated cpus: 2 wanted, 0 free .* \(2 of 2 held\)"
        ) as caught:
            placement.claim(tx, fleet.instance(3, flavor=PINNED))
    assert caught.value.code == 5


def test_vcpus_that_share_are_counted_on_their_cell(db: Database) -> None:
    """cpu_ratio 1, two processors in each cell: two guests of two vcpus, each with a cell of its own."""
    shares = fleet.flavor("shares", vcpus=2, memory_mib=128, extra_specs={"hw:numa_nodes": "1"})
    one, other, third = (fleet.instance(number, flavor=shares) for number in (1, 2, 3))
    with db.writing() as tx:
        first = placement.claim(tx, one).numa
        hosts.hold_cells(tx, "kvm1", one.uuid, first)
    with db.writing() as tx:
        second = placement.claim(tx, other).numa
        assert first and second and [found["cells"][0]["cell"] for found in (first, second)] == [1, 0]
        reason = r"^kvm1: shared cpus: 2 wanted, 0 free on one cell that has the memory \(4 of 4 held\)$"
        with pytest.raises(Refused, match=reason):
            cells_for(tx, hosts.get(tx, "kvm1"), third)
        hosts.update(tx, "kvm1", cpu_ratio=2.0)
        assert cells_for(tx, hosts.get(tx, "kvm1"), third) == {"cells": [{**second["cells"][0], "cell": 1}]}


def test_a_decision_sees_the_cells_that_were_taken_since_it_looked(db: Database) -> None:
    """Hosts are looked at before the transaction that decides."""
    aside(db, "2-3")
    late = fleet.instance(1, flavor=PINNED)
    with db.reading() as tx:
        placement.Board.of(tx).prepare(placement.spec_of(tx, late), "late", 0, 1)
        seen_before = tx.memo
    pinned(db, 2)
    with db.writing() as tx:
        tx.memo.update(seen_before)
        with pytest.raises(NoValidHost, match=r"dedicated cpus: 2 wanted, 0 free"):
            placement.claim(tx, late, like="late")
        hosts.release(tx, "kvm1", fleet.uuid(2))
    with db.writing() as tx:
        assert placement.claim(tx, late).host == "kvm1"


def test_as_many_fit_as_there_are_cells_for(db: Database) -> None:
    aside(db, "1-3")
    world = SimpleNamespace(db=db)
    with db.writing() as tx:
        catalogue.add_flavor(
            tx, fleet.flavor("one", memory_mib=64, extra_specs={"hw:cpu_policy": "dedicated"})
        )
        pages = {"hw:mem_page_size": "2MB"}
        catalogue.add_flavor(tx, fleet.flavor("pages", memory_mib=256, extra_specs=pages))
    for name, fits in (("one", 3), ("pages", 0)):
        request = BootRequest(name="x", flavor=name, image="tiny")
        found = capacity(world, request)  # type: ignore[arg-type]
        assert (found["fits"], found["hosts"][0]["fits"]) == (fits, fits)
    aside(db, "2")  # the cell that has pages has one processor that is shared
    for ratio, fits in ((1.0, 1), (3.0, 3), (9.0, 4)):
        with db.writing() as tx:
            hosts.update(tx, "kvm1", cpu_ratio=ratio)
        request = BootRequest(name="x", flavor="pages", image="tiny")
        assert capacity(world, request)["fits"] == fits  # type: ignore[arg-type]
