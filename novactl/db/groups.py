"""Server groups: named queries. Whoever gives a member a host calls `lock` first."""

from novactl.db import instances, projects, second_copy
from novactl.db.session import Row, Tx
from novactl.errors import NotFound, Refused
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.names import near
from novactl.objects.project import UNLIMITED


def create(tx: Tx, group: ServerGroup) -> None:
    """Raises Refused when the name is taken in its project, QuotaExceeded when that has no room for it."""
    if tx.one(
        "SELECT 1 AS yes FROM server_groups WHERE project = :project AND name = :name",
        project=group.project,
        name=group.name,
    ):
        raise Refused(f"group {group.name} exists already", hint=f"novactl group show {group.name}")
    projects.check_room_for(tx, group.project, "server_groups")
    tx.insert("server_groups", **group.as_dict())
    second_copy.changed(tx)


def update(tx: Tx, group: ServerGroup) -> None:
    """Keep its policy; whoever calls has seen that nobody is in it."""
    tx.run(
        "UPDATE server_groups SET policy = :policy, max_per_host = :max_per_host WHERE id = :id",
        id=group.id,
        policy=group.policy,
        max_per_host=group.max_per_host,
    )
    second_copy.changed(tx)


def delete(tx: Tx, group: ServerGroup) -> list[Row]:
    """Its members go on without the rule; who they are (members())."""
    lock(tx, group.id)
    left = members(tx, group.id)
    for member in left:
        instances.update(tx, member["uuid"], group_id=None)
        instances.note_copy(tx, member["uuid"], behind=True)
    tx.run("DELETE FROM server_groups WHERE id = :id", id=group.id)
    second_copy.changed(tx)
    return left


def find(tx: Tx, name: str, project: str) -> ServerGroup:
    """By name or id, in the project. Raises NotFound with near names."""
    row = tx.one(
        "SELECT * FROM server_groups WHERE project = :project AND (name = :name OR id = :name)",
        project=project,
        name=name,
    )
    if row is None:
        close = near(name, [group.name for group in everything(tx, project)])
        raise NotFound(
            f"group {name!r} does not exist",
            hint=f"did you mean {', '.join(close)}?" if close else "novactl group list shows what exists",
            candidates=close,
        )
    return _group(row)


def get(tx: Tx, group_id: str) -> ServerGroup | None:
    """By id; None when it was deleted."""
    row = tx.one("SELECT * FROM server_groups WHERE id = :id", id=group_id)
    return _group(row) if row else None


def everything(tx: Tx, project: str | None = None) -> list[ServerGroup]:
    """Those of a project, or all, by name."""
    where = "" if project is None else "WHERE project = :project"
    values = {} if project is None else {"project": project}
    rows = tx.all(f"SELECT * FROM server_groups {where} ORDER BY project, name", **values)
    return [_group(row) for row in rows]


def lock(tx: Tx, group_id: str) -> None:
    """Until this transaction ends nobody else gives a host to a member."""
    counts_up = "UPDATE server_groups SET version = version + 1 WHERE id = :id"
    tx.later("server_groups", group_id, counts_up, id=group_id)


def members(tx: Tx, group_id: str) -> list[Row]:
    """uuid, name and host of the living ones, oldest first."""
    return tx.all(
        "SELECT uuid, name, host FROM instances WHERE group_id = :id AND deleted_at IS NULL"
        " ORDER BY created_at, launch_index",
        id=group_id,
    )


def all_members(tx: Tx) -> dict[str, list[Row]]:
    """members() of every group that has any, by its id."""
    found: dict[str, list[Row]] = {}
    for row in tx.all(
        "SELECT group_id, uuid, name, host FROM instances WHERE group_id IS NOT NULL AND deleted_at IS NULL"
        " ORDER BY created_at, launch_index"
    ):
        found.setdefault(row.pop("group_id"), []).append(row)
    return found


def check_room(tx: Tx, group: ServerGroup, project: str, wanted: int = 1) -> None:
    """Raises QuotaExceeded when the project's groups may not have so many more members."""
    found = projects.limits(tx, project)
    if found is not None and found.limit("server_group_members") != UNLIMITED:
        sql = "SELECT COUNT(*) AS n FROM instances WHERE group_id = :id AND deleted_at IS NULL"
        row = tx.one(sql, id=group.id) or {}
        projects.check_room(tx, project, "server_group_members", int(row["n"]), wanted)


def _group(row: Row) -> ServerGroup:
    return ServerGroup(**{**row, "policy": GroupPolicy(row["policy"])})
