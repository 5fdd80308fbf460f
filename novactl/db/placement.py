"""What placement reads: hosts as candidates, what works on them, how many instances they have."""

import json
from collections.abc import Sequence

from novactl.db.locks import unlocked
from novactl.db.session import Tx, among
from novactl.objects.candidate import COLUMNS, Candidate
from novactl.objects.host import Resources
from novactl.objects.placement import Placement

SELECT = f"SELECT {', '.join(COLUMNS)} FROM hosts"
LIVING = "WHERE deleted_at IS NULL AND host IS NOT NULL"
HELD = """
    SELECT h.host, i.name FROM holds h JOIN instances i ON i.uuid = h.instance_uuid WHERE i.deleted_at IS NULL
"""
UNFENCED = "host NOT IN (SELECT name FROM hosts WHERE state = 'fenced')"
"""Who is still to be evacuated binds nobody."""


def candidates(tx: Tx, *, counted: bool, busy: bool = True, name: str | None = None) -> list[Candidate]:
    """All hosts, by name, or the one named. `counted`: with the number of instances that they have, or that
    are moved there or may go back, which an aggregate may ask for too; `busy`: and of the operations that
    work on them, or will when this transaction has journaled them."""
    only = {} if name is None else {"name": name}
    where = " WHERE name = :name" if only else ""
    found = [Candidate(*row) for row in tx.tuples(f"{SELECT}{where} ORDER BY name", **only)]
    by_name = {host.name: host for host in found}
    if busy:
        for host, count in unlocked(tx).items():
            if host in by_name:
                by_name[host].busy = count
        locks = "SELECT id, COUNT(*) FROM op_locks WHERE kind = 'host'" + (" AND id = :name" if only else "")
        for host, count in tx.tuples(f"{locks} GROUP BY id", **only):
            if host in by_name:
                by_name[host].busy += count
    for aggregate, hosts, metadata in tx.tuples("SELECT name, hosts, metadata FROM aggregates"):
        words = json.loads(metadata)
        counted |= "max_instances_per_host" in words
        for host in json.loads(hosts):
            if host in by_name:
                by_name[host].aggregates = {**by_name[host].aggregates, aggregate: words}
    if counted:
        living, held = (f"{LIVING} AND host = :name", "WHERE host = :name") if only else (LIVING, "")
        counts = (
            f"SELECT host, COUNT(*) FROM (SELECT uuid, host FROM instances {living}"
            f" UNION SELECT instance_uuid, host FROM holds {held}) placed GROUP BY host"
        )
        for host, count in tx.tuples(counts, **only):
            if host in by_name:
                by_name[host].instances = count
    return found


def load_numa_holds(tx: Tx, hosts: list[Candidate]) -> None:
    """What of each host is set aside, and what of it guests have for themselves, as it is now."""
    by_name = {host.name: host for host in hosts}
    for host in hosts:
        host.dedicated_cpus, host.numa_holds = None, ()
    for name, cpus in tx.tuples("SELECT name, dedicated_cpus FROM hosts WHERE dedicated_cpus IS NOT NULL"):
        if name in by_name:
            by_name[name].dedicated_cpus = cpus
    for name, numa in tx.tuples("SELECT host, numa FROM holds WHERE numa IS NOT NULL"):
        if name in by_name:
            by_name[name].numa_holds = (*by_name[name].numa_holds, json.loads(numa))


def group_hosts(tx: Tx, group_id: str, but: str | None = None) -> dict[str, int]:
    """How many living members of the group each host has, or may have: one that is being moved, or may go
    back, counts on both. `but` is not counted, nor is who is still to be evacuated."""
    rows = tx.tuples(
        f"SELECT host, COUNT(*) FROM (SELECT uuid, host FROM instances {LIVING} AND group_id = :id"
        " UNION SELECT h.instance_uuid, h.host FROM holds h JOIN instances i ON i.uuid = h.instance_uuid"
        " WHERE i.group_id = :id AND i.deleted_at IS NULL) members WHERE uuid <> :but"
        f" AND {UNFENCED} GROUP BY host",
        id=group_id,
        but=but or "",
    )
    return {row[0]: row[1] for row in rows}


def whereabouts(tx: Tx, uuids: Sequence[str], *, held: bool = False) -> dict[str, str]:
    """The host of each of these instances, and the instance's name. Those that are gone bind nobody: of one
    that was pruned not even the row is left. `held`: the hosts, too, that one is being moved to or may go
    back to."""
    rows = among(tx, f"SELECT host, name FROM instances {LIVING} AND {UNFENCED} AND uuid IN", uuids)
    if held:
        rows += among(tx, f"{HELD} AND h.{UNFENCED} AND i.uuid IN", uuids)
    return {row["host"]: row["name"] for row in rows}


def held(tx: Tx) -> dict[str, list[Resources]]:
    """What the instances of each host hold of it."""
    found: dict[str, list[Resources]] = {}
    sql = "SELECT host, vcpus, memory_mib, disk_gib FROM holds WHERE role = 'instance'"
    for host, vcpus, memory, disk in tx.tuples(sql):
        found.setdefault(host, []).append(Resources(vcpus=vcpus, memory_mib=memory, disk_gib=disk))
    return found


def naming(tx: Tx, uuid: str) -> dict[str, Placement]:
    """Living instances whose wishes name this one, and these wishes. Rare: all are looked at."""
    sql = f"SELECT uuid, placement FROM instances {LIVING} AND placement LIKE :like"
    return {row[0]: Placement.from_dict(json.loads(row[1])) for row in tx.tuples(sql, like=f"%{uuid}%")}


def zones(tx: Tx) -> list[str]:
    """Those that hosts are in."""
    return [row[0] for row in tx.tuples("SELECT DISTINCT zone FROM hosts ORDER BY zone")]


def failed(tx: Tx, host: str) -> None:
    """A boot failed there: one more in a row."""
    tx.run("UPDATE hosts SET failed_builds = failed_builds + 1 WHERE name = :host", host=host)


def succeeded(tx: Tx, uuid: str) -> None:
    """A boot went well on the instance's host."""
    tx.run(
        "UPDATE hosts SET failed_builds = 0 WHERE failed_builds > 0"
        " AND name = (SELECT host FROM instances WHERE uuid = :uuid)",
        uuid=uuid,
    )
