"""The second copy of the catalogue that every host keeps: what a lost database is rebuilt from, beside the
records that the domains themselves carry."""

import json
from typing import Any

from novactl.db.session import Tx, count_up, dumps, meta

COPIED = (
    "hosts",
    "flavors",
    "images",
    "keypairs",
    "networks",
    "aggregates",
    "settings",
    "server_groups",
    "projects",
)
"""Whole tables without secrets. Instances and their ports are in the domains' metadata."""
VERSION = "catalogue"
"""Under which version() is kept (session.meta)."""
USED = ("vcpus_used", "memory_mib_used", "disk_gib_used", "instances_used", "cores_used")


def kind(table: str) -> str:
    """What one row of a table is called."""
    return table.removeprefix("server_").removesuffix("s")


def version(tx: Tx) -> int:
    """Counts up with each change of what is copied."""
    return int(meta(tx, VERSION) or 0)


def changed(tx: Tx) -> None:
    """Called by whatever changes what is copied, in the same transaction."""
    count_up(tx, VERSION)


def export(tx: Tx) -> tuple[int, bytes]:
    """(version, the copy as JSON)."""
    tables = {table: tx.all(f"SELECT * FROM {table}") for table in COPIED}
    for row in tables["hosts"] + tables["projects"]:
        row.update({used: 0 for used in USED if used in row})  # what is used follows from the instances
    tables["images"] = [row for row in tables["images"] if json.loads(row["body"])["status"] == "active"]
    for row in tables["server_groups"]:
        row["version"] = 0
    content = {"fleet": meta(tx, "fleet"), "version": version(tx), "tables": tables}
    return version(tx), (dumps(content) + "\n").encode()


def parse(content: bytes) -> dict[str, Any]:
    """What export() made. Raises ValueError when it is something else."""
    found = json.loads(content)
    if not isinstance(found, dict) or not isinstance(found.get("tables"), dict):
        raise ValueError("not a copy of a catalogue")  # noqa: TRY004
    unknown = set(found["tables"]) - set(COPIED)
    if unknown:
        raise ValueError(f"unknown tables {', '.join(sorted(unknown))}")
    return found
