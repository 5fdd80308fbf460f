"""Moves of instances (objects.migration): named queries."""

import json
from typing import Any

from novactl.db import projects
from novactl.db.session import Row, Tx, dumps
from novactl.objects.flavor import Flavor
from novactl.objects.instance import Instance
from novactl.objects.migration import (
    OPEN,
    Migration,
    MigrationKind,
    MigrationStatus,
    Storage,
    most_use,
)
from novactl.objects.states import VmState

ARRIVED = frozenset({MigrationStatus.FINISHED, MigrationStatus.CONFIRMED, MigrationStatus.COMPLETED})


def add(tx: Tx, migration: Migration) -> None:
    """A new one. The caller holds its instance: there is one open at a time."""
    flavors = {"old_flavor", "new_flavor"}
    tx.insert(
        "migrations",
        **{
            name: dumps(value.as_dict()) if name in flavors else value
            for name, value in vars(migration).items()
        },
    )


def get(tx: Tx, migration_id: str) -> Migration | None:
    row = tx.one("SELECT * FROM migrations WHERE id = :id", id=migration_id)
    return _migration(row) if row else None


def open_of(tx: Tx, instance_uuid: str) -> Migration | None:
    """The one under way, or to be confirmed or reverted."""
    return next((one for one in of_instance(tx, instance_uuid) if one.status in OPEN), None)


def carried(tx: Tx, instance: Instance) -> dict[str, Any] | None:
    """What the instance's domain remembers of the move that waits, if one does (Migration.carried())."""
    move = open_of(tx, instance.uuid)
    if move is None or (move.status, move.target) != (MigrationStatus.FINISHED, instance.host):
        return None
    where = "instance_uuid = :uuid AND host = :host AND role = 'move-source'"
    held = tx.one(f"SELECT numa FROM holds WHERE {where}", uuid=instance.uuid, host=move.source)
    return move.carried(json.loads(held["numa"]) if held and held["numa"] else None)


def of_instance(tx: Tx, instance_uuid: str) -> list[Migration]:
    """All of an instance, newest first."""
    return _all(tx, "instance_uuid = :uuid", uuid=instance_uuid)


def finished(tx: Tx) -> list[Migration]:
    """Those to be confirmed or reverted, newest first."""
    return _all(tx, "status = :status", status=MigrationStatus.FINISHED)


def from_host(tx: Tx, host: str, reason: str) -> list[Migration]:
    """Those that left the host for this reason and are not undone, newest first."""
    found = _all(tx, "source = :host AND reason = :reason", host=host, reason=reason)
    return [one for one in found if one.status in ARRIVED]


def turn(tx: Tx, migration_id: str, status: MigrationStatus, now: str) -> None:
    """It is that far."""
    tx.run(
        "UPDATE migrations SET status = :status, updated_at = :now WHERE id = :id",
        status=status,
        now=now,
        id=migration_id,
    )


def settle(
    tx: Tx, migration: Migration, status: MigrationStatus, project: str, flavor: Flavor, now: str
) -> None:
    """An open one has come to its end; the project counts `flavor` from now on. Twice is once."""
    known = get(tx, migration.id)
    if known is None or known.status not in OPEN:
        return
    turn(tx, migration.id, status, now)
    counted, kept = most_use(migration.old_flavor, migration.new_flavor), most_use(flavor)
    projects.give_back(tx, project, **{what: counted[what] - kept[what] for what in counted})


def close(tx: Tx, instance_uuid: str, now: str) -> None:
    """What was open of an instance that is deleted has come to nothing."""
    migration = open_of(tx, instance_uuid)
    if migration is not None:
        turn(tx, migration.id, MigrationStatus.FAILED, now)


def _all(tx: Tx, where: str, **values: object) -> list[Migration]:
    rows = tx.all(f"SELECT * FROM migrations WHERE {where} ORDER BY created_at DESC, id", **values)
    return [_migration(row) for row in rows]


def _migration(row: Row) -> Migration:
    return Migration(
        **{
            **row,
            "kind": MigrationKind(row["kind"]),
            "status": MigrationStatus(row["status"]),
            "storage": Storage(row["storage"]),
            "was": VmState(row["was"]),
            "old_flavor": Flavor(**json.loads(row["old_flavor"])),
            "new_flavor": Flavor(**json.loads(row["new_flavor"])),
        }
    )
