"""Projects, their limits and what they use: named queries. A project without a row has no limits."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from novactl.db import second_copy
from novactl.db.session import Row, Tx, dumps
from novactl.errors import NotFound, QuotaExceeded, Refused
from novactl.objects.flavor import Flavor
from novactl.objects.migration import OPEN, most_use
from novactl.objects.names import near
from novactl.objects.project import COUNTED, NOVA_LIMITS, UNLIMITED, Project

CONTENTS = {
    "instances": "instances",
    "keypairs": "keypairs",
    "networks": "networks",
    "groups": "server_groups",
}
"""What a project must be without to be deleted, and the table of each."""
SHOWN = 8  # names in a message
_OPEN = ", ".join(f"'{status}'" for status in sorted(OPEN))


def create(tx: Tx, project: Project) -> None:
    """With what its instances use now. Raises Refused when there is one of that name."""
    if get(tx, project.name) is not None:
        raise Refused(f"project {project.name} exists already", hint=f"novactl project show {project.name}")
    tx.insert("projects", **{**project.as_dict(), "limits": dumps(project.limits)})
    recount(tx, project.name)
    _changed(tx)


def update(tx: Tx, project: Project) -> None:
    """Keep its description and limits."""
    tx.run(
        "UPDATE projects SET description = :description, limits = :limits WHERE name = :name",
        name=project.name,
        description=project.description,
        limits=dumps(project.limits),
    )
    _changed(tx)


def delete(tx: Tx, name: str) -> None:
    """It has no limits any more. Raises Refused, naming what, while anything is in it."""
    if held := contents(tx, name):
        raise Refused(f"project {name} has {in_words(held)}", hint="delete those first")
    tx.run("DELETE FROM projects WHERE name = :name", name=name)
    _changed(tx)


def contents(tx: Tx, name: str) -> dict[str, list[str]]:
    """The names of what is in the project, by what they are; without what there is none of."""
    found = {
        what: [row["name"] for row in tx.all(f"SELECT name {_of(table)} ORDER BY name", name=name)]
        for what, table in CONTENTS.items()
    }
    return {what: names for what, names in found.items() if names}


def in_words(held: Mapping[str, Sequence[str]]) -> str:
    """contents() for a message."""
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', …' if names[SHOWN:] else ''})"
        for what, names in held.items()
    )


def get(tx: Tx, name: str) -> Project | None:
    row = tx.one("SELECT * FROM projects WHERE name = :name", name=name)
    return _project(row) if row else None


def _changed(tx: Tx) -> None:
    tx.memo.pop("limits", None)
    second_copy.changed(tx)


def limits(tx: Tx, name: str) -> Project | None:
    """get(), read once in a transaction: its limits are as they were, its use may have grown."""
    known: dict[str, Project | None] = tx.memo.setdefault("limits", {})
    if name not in known:
        known[name] = get(tx, name)
    return known[name]


def find(tx: Tx, name: str) -> Project:
    """Raises NotFound with near names."""
    found = get(tx, name)
    if found is None:
        close = near(name, [one.name for one in everything(tx)])
        known = "novactl project list shows those that have limits"
        raise NotFound(
            f"project {name!r} does not exist",
            hint=f"did you mean {', '.join(close)}?" if close else known,
            candidates=close,
        )
    return found


def everything(tx: Tx) -> list[Project]:
    return [_project(row) for row in tx.all("SELECT * FROM projects ORDER BY name")]


def take(tx: Tx, name: str, *, instances: int = 0, cores: int = 0, memory_mib: int = 0) -> None:
    """Count it, within the project's limits: what does not grow is never refused. One UPDATE decides, so no
    two callers can be given the same room. Raises QuotaExceeded."""
    project = limits(tx, name)
    if project is None:
        return
    wanted = dict(zip(COUNTED, (instances, cores, memory_mib), strict=True))
    tests = [
        f"{resource}_used + :{resource} <= {int(project.limit(resource))}"
        for resource, amount in wanted.items()
        if amount > 0 and project.limit(resource) != UNLIMITED
    ]
    if not _add(tx, name, wanted, tests):
        now = find(tx, name)
        short = {
            resource: (getattr(now, f"{resource}_used"), amount)
            for resource, amount in wanted.items()
            if amount > 0
        }
        raise _over(now, short)


def force(tx: Tx, name: str, *, instances: int = 0, cores: int = 0, memory_mib: int = 0) -> None:
    """Count it whatever the limits are: it is there."""
    _add(tx, name, dict(zip(COUNTED, (instances, cores, memory_mib), strict=True)))


def give_back(tx: Tx, name: str, *, instances: int = 0, cores: int = 0, memory_mib: int = 0) -> None:
    """The opposite of take(). Never below 0: a count that is wrong keeps nobody from deleting."""
    force(tx, name, instances=-instances, cores=-cores, memory_mib=-memory_mib)


def _add(tx: Tx, name: str, amounts: Mapping[str, int], tests: Sequence[str] = ()) -> int:
    sets = ", ".join(
        f"{used} = CASE WHEN {used} + :{resource} < 0 THEN 0 ELSE {used} + :{resource} END"
        for resource in COUNTED
        for used in [f"{resource}_used"]
    )
    where = " AND ".join(["name = :name", *tests])
    return tx.run(f"UPDATE projects SET {sets} WHERE {where}", name=name, **amounts)


def check_room(tx: Tx, name: str, resource: str, used: int, wanted: int = 1) -> None:
    """For what no row counts: raises QuotaExceeded when `wanted` more than `used` is over the limit."""
    project = limits(tx, name) if wanted > 0 else None
    if project is not None and _short(project, resource, used, wanted):
        raise _over(project, {resource: (used, wanted)})


def check_room_for(tx: Tx, name: str, resource: str) -> None:
    """check_room() for one more keypair or server group."""
    check_room(tx, name, resource, _count(tx, resource, name))


def usage(tx: Tx, name: str) -> dict[str, int]:
    """What the project uses of each resource, from the instances and the catalogue themselves. Of
    metadata_items and server_group_members, which are limits of one instance and one group: the most."""
    rows = tx.all(
        "SELECT uuid, flavor, metadata, group_id FROM instances WHERE project = :name AND deleted_at IS NULL",
        name=name,
    )
    both = moving(tx, name)
    used = [most_use(*both.get(row["uuid"], [Flavor(**json.loads(row["flavor"]))])) for row in rows]
    members = Counter(row["group_id"] for row in rows if row["group_id"])
    return {
        **dict.fromkeys(NOVA_LIMITS, 0),
        "instances": len(rows),
        "cores": sum(one["cores"] for one in used),
        "memory_mib": sum(one["memory_mib"] for one in used),
        "metadata_items": max((len(json.loads(row["metadata"])) for row in rows), default=0),
        "keypairs": _count(tx, "keypairs", name),
        "server_groups": _count(tx, "server_groups", name),
        "server_group_members": max(members.values(), default=0),
    }


def moving(tx: Tx, project: str | None = None) -> dict[str, list[Flavor]]:
    """Both flavors of each instance (of the project) whose move is open, by its uuid: the larger counts."""
    rows = tx.all(
        "SELECT m.instance_uuid, m.old_flavor, m.new_flavor FROM migrations m JOIN instances i"
        f" ON i.uuid = m.instance_uuid WHERE m.status IN ({_OPEN})"
        + (" AND i.project = :project" if project is not None else ""),
        **({"project": project} if project is not None else {}),
    )
    return {
        row["instance_uuid"]: [Flavor(**json.loads(row[which])) for which in ("old_flavor", "new_flavor")]
        for row in rows
    }


def recount(tx: Tx, name: str) -> None:
    """What its living instances use is what is counted. Its row is locked first: a delete gives back before
    or after, not between."""
    tx.run("UPDATE projects SET name = name WHERE name = :name", name=name)
    used = usage(tx, name)
    sets = ", ".join(f"{resource}_used = :{resource}" for resource in COUNTED)
    tx.run(
        f"UPDATE projects SET {sets} WHERE name = :name",
        name=name,
        **{resource: used[resource] for resource in COUNTED},
    )


def _count(tx: Tx, table: str, name: str) -> int:
    row: Any = tx.one(f"SELECT COUNT(*) AS n {_of(table)}", name=name)
    return int(row["n"])


def _of(table: str) -> str:
    living = " AND deleted_at IS NULL" if table == "instances" else ""
    return f"FROM {table} WHERE project = :name{living}"


def _short(project: Project, resource: str, used: int, wanted: int) -> bool:
    limit = project.limit(resource)
    return limit != UNLIMITED and used + wanted > limit


def _over(project: Project, asked: Mapping[str, tuple[int, int]]) -> QuotaExceeded:
    """`asked`: (used, wanted) of each resource."""
    short = [
        {
            "project": project.name,
            "resource": resource,
            "wanted": wanted,
            "left": max(0, project.limit(resource) - used),
            "limit": project.limit(resource),
        }
        for resource, (used, wanted) in asked.items()
        if _short(project, resource, used, wanted)
    ]
    told = "; ".join("{resource}: {wanted} wanted, {left} left of {limit}".format_map(row) for row in short)
    return QuotaExceeded(
        f"project {project.name} is at its quota: {told}",
        hint=f"novactl quota show {project.name}; novactl quota set {project.name} changes it",
        targets=short,
    )


def _project(row: Row) -> Project:
    return Project(**{**row, "limits": json.loads(row["limits"])})
