"""What rebalancing reads, on every database."""

from novactl.db import balance, hosts
from novactl.db.session import Database
from novactl.objects.states import VmState
from tests.support import fleet

LATER = "2026-01-01T02:00:00.000000Z"


def operation(db: Database, number: int, kind: str, of: int, finished_at: str | None) -> None:
    with db.writing() as tx:
        tx.insert(
            "operations",
            id=f"op-{number}",
            kind=kind,
            target=f"web{of}",
            target_uuid=fleet.uuid(of),
            project="default",
            request="{}",
            state="done" if finished_at else "running",
            attempt=1,
            epoch=1,
            owner="me",
            owner_key="{}",
            user="me",
            written_by="0",
            cancel_requested=0,
            started_at=fleet.WHEN,
            finished_at=finished_at,
        )


def test_guests(db: Database) -> None:
    """Those that have room on the host that they are on, each once."""
    fleet.furnish(db, hosts_=2)
    for number, numa in ((1, None), (2, '{"cpus": "2"}'), (3, None)):
        made = fleet.add_instance(db, fleet.instance(number, host="kvm1", vm_state=VmState.STOPPED))
        with db.writing() as tx:
            assert hosts.claim(tx, "kvm1", made.uuid, made.resources, numa=numa)
    fleet.add_instance(db, fleet.instance(4))
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm2", fleet.uuid(1), fleet.instance(1).resources, "move-source")
        tx.run("UPDATE instances SET deleted_at = :now WHERE uuid = :uuid", now=LATER, uuid=fleet.uuid(3))
    with db.reading() as tx:
        one, two = balance.guests(tx)
        assert balance.second(tx) == [(fleet.uuid(1), "kvm2")]
    assert (one.uuid, one.name, one.host, one.vm_state) == (fleet.uuid(1), "web1", "kvm1", "stopped")
    assert (one.memory_mib, one.vcpus, one.disk_gib) == (512, 1, 1)
    assert (bool(one.pinned), bool(two.pinned)) == (False, True)


def test_what_was_moved_and_what_is_worked_on(db: Database) -> None:
    operation(db, 1, "live-migrate", 1, LATER)
    operation(db, 2, "migrate", 1, fleet.WHEN)
    operation(db, 3, "boot", 2, LATER)
    operation(db, 4, "resize", 3, None)
    with db.writing() as tx:
        tx.insert("op_locks", kind="instance", id=fleet.uuid(3), operation="op-4", mode="X", exclusive="i/3")
        tx.insert("op_locks", kind="host", id="kvm1", operation="op-4", mode="S", exclusive=None)
    with db.reading() as tx:
        assert balance.moved_since(tx, fleet.WHEN) == {fleet.uuid(1): LATER, fleet.uuid(3): fleet.WHEN}
        assert balance.moved_since(tx, LATER) == {fleet.uuid(1): LATER}
        assert balance.worked_on(tx) == {fleet.uuid(3): "op-4"}
