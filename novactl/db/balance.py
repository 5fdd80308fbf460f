"""What rebalancing reads of the fleet: named queries that read no more than that."""

from typing import NamedTuple

from novactl.db.session import Tx

GUESTS = """
    SELECT i.uuid, i.name, i.project, i.host, i.vm_state, i.task_state, i.locked, i.version, i.group_id,
        i.placement, i.flavor, i.image, i.launched_at, h.memory_mib, h.vcpus, h.disk_gib, h.numa IS NOT NULL
    FROM instances i JOIN holds h ON h.instance_uuid = i.uuid AND h.host = i.host AND h.role = 'instance'
    WHERE i.deleted_at IS NULL ORDER BY i.uuid
"""
MOVES = ("migrate", "live-migrate", "resize", "evacuate")
"""Kinds of operations that bring an instance to another host."""


class Placed(NamedTuple):
    """An instance and what it has of its host; `flavor`, `image` and `placement` as JSON, `pinned`: it has
    processors or pages for itself."""

    uuid: str
    name: str
    project: str
    host: str
    vm_state: str
    task_state: str | None
    locked: int
    version: int
    group_id: str | None
    placement: str | None
    flavor: str
    image: str | None
    launched_at: str | None
    memory_mib: int
    vcpus: int
    disk_gib: int
    pinned: int


def guests(tx: Tx) -> list[Placed]:
    """Each instance that has room on a host, by uuid."""
    return [Placed(*row) for row in tx.tuples(GUESTS)]


def worked_on(tx: Tx) -> dict[str, str]:
    """The operations that hold instances, by the instances' uuids."""
    rows = tx.all("SELECT id, operation FROM op_locks WHERE kind = 'instance' ORDER BY operation")
    return {row["id"]: row["operation"] for row in rows}


def second(tx: Tx) -> list[tuple[str, str]]:
    """(uuid, host) of each that has room on a second host: it is being moved there, or may go back."""
    rows = tx.tuples("SELECT instance_uuid, host FROM holds WHERE role <> 'instance'")
    return [(uuid, host) for uuid, host in rows]


def moved_since(tx: Tx, moment: str) -> dict[str, str]:
    """When the instances were moved last that were moved since then, by their uuids."""
    kinds = {f"kind{n}": kind for n, kind in enumerate(MOVES)}
    rows = tx.all(
        "SELECT target_uuid, MAX(COALESCE(finished_at, started_at)) AS moved FROM operations"
        f" WHERE kind IN ({', '.join(f':{key}' for key in kinds)}) AND target_uuid IS NOT NULL"
        " AND COALESCE(finished_at, started_at) >= :since GROUP BY target_uuid",
        since=moment,
        **kinds,
    )
    return {row["target_uuid"]: row["moved"] for row in rows}
