"""Server groups: named queries. Whoever gives a member a host calls `lock` first."""

from novactl.db import second_copy
from novactl.db.session import Row, Tx
from novactl.errors import NotFound, Refused
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.names import near


def create(tx: Tx, group: ServerGroup) -> None:
    """Raises Refused when the name is taken in its project."""
    if tx.one(
        "SELECT 1 AS yes FROM server_groups WHERE project = :project AND name = :name",
        project=group.project,
        name=group.name,
    ):
        raise Refused(f"group {group.name} exists already", hint=f"novactl group show {group.name}")
    tx.insert("server_groups", **group.as_dict())
    second_copy.changed(tx)


def delete(tx: Tx, group: ServerGroup) -> None:
    tx.run("DELETE FROM server_groups WHERE id = :id", id=group.id)
    second_copy.changed(tx)


def find(tx: Tx, name: str, project: str) -> ServerGroup:
    """By name in the project, or by id. Raises NotFound with near names."""
    row = tx.one(
        "SELECT * FROM server_groups WHERE (project = :project AND name = :name) OR id = :name",
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
    tx.run("UPDATE server_groups SET version = version + 1 WHERE id = :id", id=group_id)


def members(tx: Tx, group_id: str) -> list[Row]:
    """uuid, name and host of the living ones, oldest first."""
    return tx.all(
        "SELECT uuid, name, host FROM instances WHERE group_id = :id AND deleted_at IS NULL"
        " ORDER BY created_at, launch_index",
        id=group_id,
    )


def _group(row: Row) -> ServerGroup:
    return ServerGroup(**{**row, "policy": GroupPolicy(row["policy"])})
