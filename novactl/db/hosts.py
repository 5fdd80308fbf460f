"""Hosts, and who holds how much of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from novactl.db import second_copy
from novactl.db.session import Row, Tx, dumps
from novactl.errors import NotFound
from novactl.objects.host import Host, Resources
from novactl.objects.names import near

PLAIN = [
    "id",
    "name",
    "address",
    "port",
    "user",
    "jump",
    "instances_path",
    "virt_type",
    "zone",
    "state",
    "disabled_reason",
    "vcpus",
    "memory_mib",
    "disk_gib",
    "vcpus_used",
    "memory_mib_used",
    "disk_gib_used",
    "reserved_vcpus",
    "reserved_memory_mib",
    "reserved_disk_gib",
    "foreign_vcpus",
    "foreign_memory_mib",
    "foreign_disk_gib",
    "cpu_ratio",
    "memory_ratio",
    "disk_ratio",
    "arch",
    "huge_memory_mib",
    "dedicated_cpus",
    "dedicated_vcpus",
    "failed_builds",
    "checked_at",
    "version",
]
JSON = ("labels", "facts", "host_keys")

SELECT = """
    SELECT h.*, (SELECT COUNT(*) FROM instances i WHERE i.host = h.name AND i.deleted_at IS NULL) AS instances
    FROM hosts h
"""


def add(tx: Tx, host: Host) -> None:
    tx.insert(
        "hosts",
        enabled=int(host.enabled),
        labels=dumps(host.labels),
        facts=dumps(host.facts),
        host_keys=dumps(list(host.host_keys)),
        **{column: getattr(host, column) for column in PLAIN},
    )
    second_copy.changed(tx)


def update(tx: Tx, name: str, **values: Any) -> None:
    """Set columns (dicts and lists become JSON) and count the version up. Raises NotFound."""
    stored = {key: dumps(value) if key in JSON else value for key, value in values.items()}
    sets = ", ".join(f'"{column}" = :{column}' for column in stored)
    if not tx.run(f"UPDATE hosts SET {sets}, version = version + 1 WHERE name = :of", of=name, **stored):
        raise NotFound(f"host {name} is not in the database")
    second_copy.changed(tx)


def seen(tx: Tx, names: Sequence[str], state: str, now: str) -> None:
    """These were looked at and are up, or down; what is fenced stays so. Hosts keep no new copy of that."""
    for name in names:
        tx.run(
            "UPDATE hosts SET state = CASE WHEN state = 'fenced' THEN state ELSE :state END,"
            " checked_at = :now, version = version + 1 WHERE name = :name",
            state=state,
            now=now,
            name=name,
        )


def rebooted(tx: Tx, name: str, boot_id: str) -> bool:
    """Remember the host's boot; whether it is another than the one known."""
    row = tx.one("SELECT facts FROM hosts WHERE name = :name", name=name)
    facts = json.loads(row["facts"]) if row else {}
    before = facts.get("boot_id")
    if row is None or before == boot_id:
        return False
    facts["boot_id"] = boot_id
    tx.run(
        "UPDATE hosts SET facts = :facts, version = version + 1 WHERE name = :name",
        facts=dumps(facts),
        name=name,
    )
    return before is not None


def measured(tx: Tx, before: Host, now: Host) -> bool:
    """What a look at the host measured is kept; whether more than its state and the time of the look changed.
    The catalogue's copies follow only then; a host that is fenced stays so, one that was removed is none."""
    if not tx.one("SELECT 1 AS yes FROM hosts WHERE name = :name", name=before.name):
        return False
    values = {
        column: getattr(now, column)
        for column in PLAIN
        if getattr(now, column) != getattr(before, column) and column not in ("state", "checked_at")
    }
    if now.facts != before.facts:
        values["facts"] = now.facts
    if values:
        update(tx, before.name, **values)
    seen(tx, [before.name], now.state, str(now.checked_at))
    return bool(values)


def remove(tx: Tx, name: str) -> None:
    tx.run("DELETE FROM hosts WHERE name = :name", name=name)
    second_copy.changed(tx)


def get(tx: Tx, name: str) -> Host:
    """By name. Raises NotFound with near names."""
    row = tx.one(f"{SELECT} WHERE h.name = :name", name=name)
    if row is None:
        close = near(name, [row["name"] for row in tx.all("SELECT name FROM hosts")])
        raise NotFound(
            f"host {name!r} does not exist",
            hint=f"did you mean {', '.join(close)}?" if close else "novactl host list shows what exists",
            candidates=close,
        )
    return _host(row)


def fenced(tx: Tx) -> set[str]:
    """Names of those that something has proven to be down, and that no audit has found clean since."""
    return {row["name"] for row in tx.all("SELECT name FROM hosts WHERE state = 'fenced'")}


def fence(tx: Tx, name: str, now: str) -> None:
    """Nothing is given it from now on, whatever later looks say of it, until unfence()."""
    get(tx, name)
    tx.run(
        "UPDATE hosts SET state = 'fenced', checked_at = :now, version = version + 1 WHERE name = :name",
        now=now,
        name=name,
    )


def unfence(tx: Tx, name: str) -> None:
    """It is up again; no effect on one that is not fenced."""
    tx.run(
        "UPDATE hosts SET state = 'up', version = version + 1 WHERE name = :name AND state = 'fenced'",
        name=name,
    )


def everything(tx: Tx) -> list[Host]:
    return [_host(row) for row in tx.all(f"{SELECT} ORDER BY h.name")]


ROOM = {
    "vcpus": "(vcpus - reserved_vcpus - foreign_vcpus - dedicated_vcpus) * cpu_ratio",
    "memory_mib": "(memory_mib - reserved_memory_mib - foreign_memory_mib - huge_memory_mib) * memory_ratio",
    "disk_gib": "(disk_gib - reserved_disk_gib - foreign_disk_gib) * disk_ratio",
}
"""What may be claimed in all, as Host.capacity()."""
TAKES = ("enabled = 1", "state = 'up'")
"""Whether a host takes what is new."""


def claim(
    tx: Tx,
    host: str,
    instance_uuid: str,
    amounts: Resources,
    role: str = "instance",
    numa: str | None = None,
) -> bool:
    """Give the instance these amounts of the host, or False and give nothing. One UPDATE decides, so no
    two callers can be given the same room. `numa`: what of it is the instance's alone, as JSON."""
    matched = bool(tx.run(_growth(vars(amounts), *TAKES), host=host, **vars(amounts)))
    if matched:
        hold(tx, host, instance_uuid, amounts, role, numa)
    return matched


def reserve(tx: Tx, amounts: Mapping[str, Resources]) -> list[str]:
    """Which hosts have these amounts from now on, for instances that hold() them in this transaction: claim()
    of many at once. The others have given nothing."""
    asked = sorted(amounts.items())
    statements = [(_growth(vars(one), *TAKES), {**vars(one), "host": host}) for host, one in asked]
    return [host for (host, _), matched in zip(asked, tx.run_all(statements), strict=True) if matched]


def hold(
    tx: Tx,
    host: str,
    instance_uuid: str,
    amounts: Resources,
    role: str = "instance",
    numa: str | None = None,
) -> None:
    """The instance has these amounts of the host, which were counted before."""
    tx.insert("holds", instance_uuid=instance_uuid, host=host, role=role, numa=numa, **vars(amounts))


def hold_cells(tx: Tx, host: str, instance_uuid: str, numa: Mapping[str, Any] | None) -> None:
    """What of the host's cells the instance has from now on."""
    tx.run(
        "UPDATE holds SET numa = :numa WHERE instance_uuid = :uuid AND host = :host AND role = 'instance'",
        numa=None if numa is None else dumps(numa),
        uuid=instance_uuid,
        host=host,
    )


def change_hold(
    tx: Tx,
    host: str,
    instance_uuid: str,
    amounts: Resources,
    role: str = "instance",
    *,
    forced: bool = False,
) -> bool:
    """The hold has these amounts from now on, or False and stays as it is. Only what grows needs room: a
    change that lowers an overcommit is always allowed. `forced`: it is there, whether or not there is."""
    key = {"uuid": instance_uuid, "host": host, "role": role}
    where = "instance_uuid = :uuid AND host = :host AND role = :role"
    held = tx.one(f"SELECT * FROM holds WHERE {where}", **key)
    if held is None:
        return False
    more = {size: n - held[size] for size, n in vars(amounts).items()}
    if not tx.run(_count(more) if forced else _growth(more), host=host, **more):
        return False
    sets = ", ".join(f"{size} = :{size}" for size in ROOM)
    tx.run(f"UPDATE holds SET {sets} WHERE {where}", **key, **vars(amounts))
    return True


def change_role(tx: Tx, host: str, instance_uuid: str, role: str, new_role: str) -> None:
    """The hold is for something else from now on; twice is fine."""
    tx.run(
        "UPDATE holds SET role = :new_role WHERE instance_uuid = :uuid AND host = :host AND role = :role",
        new_role=new_role,
        uuid=instance_uuid,
        host=host,
        role=role,
    )


def _growth(amounts: Mapping[str, int], *conditions: str) -> str:
    """The statement that counts these amounts of :host, unless one that grows has no room or a condition does
    not hold."""
    tests = [f"{size}_used + :{size} <= {ROOM[size]}" for size, amount in amounts.items() if amount > 0]
    return " AND ".join([_count(amounts), *conditions, *tests])


def _count(amounts: Mapping[str, int]) -> str:
    """The statement that counts these amounts of :host."""
    sets = ", ".join(f"{size}_used = {size}_used + :{size}" for size in amounts)
    return f"UPDATE hosts SET {sets}, version = version + 1 WHERE name = :host"


def release(tx: Tx, host: str, instance_uuid: str, role: str = "instance") -> None:
    """Give back what the hold says; twice gives back once."""
    key = {"host": host, "uuid": instance_uuid, "role": role}
    where = "instance_uuid = :uuid AND host = :host AND role = :role"
    hold = tx.one(f"SELECT * FROM holds WHERE {where}", **key)
    if hold is None:
        return
    tx.run(f"DELETE FROM holds WHERE {where}", **key)
    tx.run(
        """
        UPDATE hosts SET vcpus_used = vcpus_used - :vcpus, memory_mib_used = memory_mib_used - :memory,
                         disk_gib_used = disk_gib_used - :disk, version = version + 1
        WHERE name = :host
        """,
        host=host,
        vcpus=hold["vcpus"],
        memory=hold["memory_mib"],
        disk=hold["disk_gib"],
    )


def hold_of(tx: Tx, host: str, instance_uuid: str) -> Resources | None:
    """How much of the host the instance holds to be there."""
    for row in holds_of(tx, instance_uuid):
        if (row["host"], row["role"]) == (host, "instance"):
            return Resources(**{size: row[size] for size in ROOM})
    return None


def holds_of(tx: Tx, instance_uuid: str) -> list[Row]:
    return tx.all("SELECT * FROM holds WHERE instance_uuid = :uuid", uuid=instance_uuid)


def holder(tx: Tx, host: str) -> str | None:
    """The first of those who have a share of the host, by name: one whose move waits is elsewhere, and may
    come back."""
    row = tx.one(
        "SELECT h.instance_uuid, i.name FROM holds h LEFT JOIN instances i ON i.uuid = h.instance_uuid"
        " WHERE h.host = :host ORDER BY i.name, h.instance_uuid LIMIT 1",
        host=host,
    )
    return None if row is None else str(row["name"] or row["instance_uuid"])


def numa_holds(tx: Tx, host: str) -> list[tuple[str, dict[str, Any]]]:
    """(instance's uuid, what of the host's cells it has: Fit.as_dict) of those that have some."""
    rows = tx.all(
        "SELECT instance_uuid, numa FROM holds WHERE host = :host AND numa IS NOT NULL"
        " ORDER BY instance_uuid, role",
        host=host,
    )
    return [(row["instance_uuid"], json.loads(row["numa"])) for row in rows]


def _host(row: Row) -> Host:
    return Host(
        labels=json.loads(row["labels"]),
        facts=json.loads(row["facts"]),
        host_keys=tuple(json.loads(row["host_keys"])),
        enabled=bool(row["enabled"]),
        instances=row["instances"],
        **{column: row[column] for column in PLAIN},
    )
