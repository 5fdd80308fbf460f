"""Names that begin with something, for a shell: few, by an index where there are many."""

from novactl.db.session import Tx

TABLES = {
    "host": "hosts",
    "flavor": "flavors",
    "image": "images",
    "network": "networks",
    "project": "projects",
}
LAST = "\U0010ffff"  # sorts after every name that begins like what stands before it


def names(tx: Tx, kind: str, start: str, project: str, limit: int) -> list[str]:
    """At most `limit` names (of operations: ids, the newest) that begin with `start`."""
    column, table, order, where = "name", TABLES.get(kind, ""), "", ""
    match kind:
        case "instance":
            column, table, start = "live_name", "instances", f"{project}/{start}"
        case "keypair" | "group":
            table = "keypairs" if kind == "keypair" else "server_groups"
            where = "project = :project AND "
        case "op":
            column, table, order = "id", "operations", "DESC"
    rows = tx.all(
        f"SELECT {column} AS name FROM {table} WHERE {where}{column} >= :low AND {column} < :high"
        f" ORDER BY {column} {order} LIMIT :limit",
        low=start,
        high=start + LAST,
        limit=limit,
        **({"project": project} if where else {}),
    )
    return [row["name"].rpartition("/")[2] for row in rows]
