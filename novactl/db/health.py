"""How the fleet is, counted by the database: for `check` and `metrics`. Quick with 20,000 instances."""

from novactl.db.session import Row, Tx
from novactl.objects.states import TaskState, VmState, status

MEASURED = """
    SELECT h.name, h.state, h.enabled, h.disabled_reason, h.checked_at, h.vcpus, h.memory_mib, h.disk_gib,
        h.vcpus_used, h.memory_mib_used, h.disk_gib_used, h.reserved_vcpus, h.reserved_memory_mib,
        h.reserved_disk_gib, h.foreign_vcpus, h.foreign_memory_mib, h.foreign_disk_gib, h.cpu_ratio,
        h.memory_ratio, h.disk_ratio, h.dedicated_vcpus, h.huge_memory_mib,
        COALESCE(i.instances, 0) AS instances
    FROM hosts h LEFT JOIN (SELECT host, COUNT(*) AS instances FROM instances
        WHERE host IS NOT NULL AND deleted_at IS NULL GROUP BY host) i ON i.host = h.name
    ORDER BY h.name
"""
ASIDE = {"vcpus": "dedicated_vcpus", "memory_mib": "huge_memory_mib"}
RATIOS = {"vcpus": "cpu_ratio", "memory_mib": "memory_ratio", "disk_gib": "disk_ratio"}


def hosts(tx: Tx) -> list[Row]:
    """Each host's state and sizes; `capacity` of each resource is what instances may claim in all."""
    found = tx.all(MEASURED)
    for row in found:
        row["capacity"] = {
            size: max(0, row[size] - _kept(row, size)) * row[ratio] for size, ratio in RATIOS.items()
        }
    return found


def _kept(row: Row, size: str) -> int:
    """What is not for instances to share."""
    aside = row[ASIDE[size]] if size in ASIDE else 0
    return int(row[f"reserved_{size}"] + row[f"foreign_{size}"] + aside)


def instances(tx: Tx) -> dict[str, int]:
    """How many there are of each status; those that there are none of are left out."""
    counted: dict[str, int] = {}
    for row in tx.all(
        "SELECT vm_state, task_state, COUNT(*) AS n FROM instances WHERE deleted_at IS NULL"
        " GROUP BY vm_state, task_state"
    ):
        task = TaskState(row["task_state"]) if row["task_state"] else None
        word = status(VmState(row["vm_state"]), task)
        counted[word] = counted.get(word, 0) + int(row["n"])
    return counted


def in_error(tx: Tx, most: int) -> list[str]:
    """Names of instances in ERROR."""
    rows = tx.all(
        "SELECT name FROM instances WHERE vm_state = 'error' AND deleted_at IS NULL"
        " ORDER BY name LIMIT :most",
        most=most,
    )
    return [row["name"] for row in rows]


def operations(tx: Tx) -> dict[str, int]:
    """How many there are of each state."""
    rows = tx.all("SELECT state, COUNT(*) AS n FROM operations GROUP BY state ORDER BY state")
    return {row["state"]: int(row["n"]) for row in rows}
