"""Rows made from the copy of the catalogue that hosts keep (second_copy).

Whatever a host remembers may have been written by anybody who is root there: all of it is looked at here
before anything is written. Nothing that is in the database already is ever changed.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from novactl.db import projects, second_copy
from novactl.db.session import Row, Tx
from novactl.errors import NovactlError, Refused
from novactl.objects import cpuset, names
from novactl.objects.aggregate import Aggregate, check_aggregate
from novactl.objects.group import GroupPolicy, ServerGroup, check_group
from novactl.objects.numa import topology_of
from novactl.objects.policy import check_setting
from novactl.objects.project import Project, check_project

HOST_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+")
ARCH = re.compile(r"[a-z0-9_]{1,16}")
OF_PROJECT = "project = :project AND name = :name"
WHICH = {
    "keypairs": OF_PROJECT,
    "server_groups": f"id = :id OR ({OF_PROJECT})",
    "projects": "name = :name",
}
OTHERS = "id = :id OR name = :name"
"""What makes a row of a copy one that is there."""


def restore_catalogue(tx: Tx, copy: Mapping[str, Any]) -> list[str]:
    """Insert the rows of a catalogue copy (second_copy.parse) that the database lacks, by id and by name;
    what each is, as "host kvm4". Raises Refused, naming the row, for one that makes no sense."""
    rows = [
        (table, _checked(table, row)) for table in second_copy.COPIED for row in copy["tables"].get(table, ())
    ]
    made: list[str] = []
    for table, row in rows:
        if not _is_there(tx, table, row):
            tx.insert(table, **row)
            if table == "projects":
                projects.recount(tx, row["name"])  # its instances may be in the database
            made.append(f"{second_copy.kind(table)} {row['name']}")
    if made:
        second_copy.changed(tx)
    return made


def _is_there(tx: Tx, table: str, row: Row) -> bool:
    where = WHICH.get(table, OTHERS)
    values = {key: row[key] for key in ("id", "project") if f":{key}" in where}
    return tx.one(f"SELECT 1 AS yes FROM {table} WHERE {where}", name=row["name"], **values) is not None


def _checked(table: str, row: Any) -> Row:
    """The row, when its columns are the table's and its words are such as novactl writes; else Refused."""
    from novactl.db.tables import metadata

    columns = set(metadata.tables[table].columns.keys())
    try:
        row = _with_added(row) if table == "hosts" else row
        _check_row(table, row, columns)
    except (TypeError, KeyError, ValueError, AttributeError, NovactlError) as error:
        what = error.message if isinstance(error, NovactlError) else str(error)
        raise Refused(f"the catalogue copy makes no sense: a row of {table}: {what}") from error
    return dict(row)


def _with_added(row: Any) -> Any:
    """A host of a copy from before schema 4, with the columns that this one added."""
    added = {"huge_memory_mib": 0, "dedicated_cpus": None, "dedicated_vcpus": 0, "failed_builds": 0}
    return {"arch": json.loads(row["facts"]).get("arch"), **added, **row}


def _check_row(table: str, row: Any, columns: set[str]) -> None:
    if set(row) != columns or not all(isinstance(value, str | int | float | None) for value in row.values()):
        raise TypeError("its columns are not the table's")
    names.check_name(row["name"], f"{second_copy.kind(table)} name")
    if table in CHECKS:
        CHECKS[table](row)


def _check_network(row: Row) -> None:
    names.check_pattern(row["bridge"], names.BRIDGE, "bridge")
    ipaddress.IPv4Network(row["cidr"])


def _check_aggregate(row: Row) -> None:
    hosts_, metadata = json.loads(row["hosts"]), json.loads(row["metadata"])
    if not isinstance(hosts_, list) or not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("its hosts are no list, or its metadata is no text")
    check_aggregate(Aggregate(id=row["id"], name=row["name"], hosts=tuple(hosts_), metadata=metadata))


def _check_host(row: Row) -> None:
    """What reaches ssh's files: as `host add` checks it."""
    names.check_pattern(row["address"], names.ADDRESS, "address")
    names.check_pattern(row["user"], names.USER, "user")
    names.check_path(row["instances_path"], "instances path")
    if row["jump"] is not None:
        names.check_name(row["jump"], "jump host")
    if not 1 <= int(row["port"]) <= 65535:
        raise ValueError(f"port {row['port']}")
    for key in json.loads(row["host_keys"]):
        names.check_pattern(key, HOST_KEY, "host key")
    if row["arch"] is not None:
        names.check_pattern(row["arch"], ARCH, "architecture")
    topology_of(json.loads(row["facts"]))
    if len(cpuset.parse(row["dedicated_cpus"])) != row["dedicated_vcpus"]:
        raise ValueError("its dedicated cpus are not as many as it says")
    for key in ("huge_memory_mib", "failed_builds"):
        if type(row[key]) is not int or row[key] < 0:
            raise ValueError(f"{key} {row[key]!r}")
    _check_unused(row)


def _check_unused(row: Row) -> None:
    if any(row[used] != 0 for used in second_copy.USED if used in row):
        raise ValueError("it counts what is used")


def _check_group(row: Row) -> None:
    names.check_pattern(row["id"], names.UUID, "uuid")
    names.check_name(row["project"], "project")
    if type(row["max_per_host"]) is not int or row["version"] != 0:
        raise TypeError("its numbers are none")
    check_group(ServerGroup(**{**row, "policy": GroupPolicy(row["policy"])}))


def _check_project(row: Row) -> None:
    limits = json.loads(row["limits"])
    if not isinstance(limits, dict):
        raise TypeError("its limits are no mapping")
    check_project(Project(**{**row, "limits": limits}))
    _check_unused(row)


CHECKS: dict[str, Callable[[Row], None]] = {
    "hosts": _check_host,
    "networks": _check_network,
    "aggregates": _check_aggregate,
    "settings": lambda row: check_setting(row["name"], json.loads(row["value"])),
    "server_groups": _check_group,
    "projects": _check_project,
}
