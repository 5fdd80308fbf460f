"""Groups of hosts: named queries."""

import json

from novactl.db import second_copy
from novactl.db.catalogue import missing, refuse_taken
from novactl.db.session import Row, Tx, dumps
from novactl.objects.aggregate import Aggregate


def create(tx: Tx, aggregate: Aggregate) -> None:
    """Raises Refused when the name is taken."""
    refuse_taken(tx, "aggregate", aggregate.name)
    tx.insert("aggregates", id=aggregate.id, name=aggregate.name, **_columns(aggregate))
    second_copy.changed(tx)


def update(tx: Tx, aggregate: Aggregate) -> None:
    """Keep its hosts and metadata, by its name."""
    tx.run(
        "UPDATE aggregates SET hosts = :hosts, metadata = :metadata WHERE name = :name",
        name=aggregate.name,
        **_columns(aggregate),
    )
    second_copy.changed(tx)


def delete(tx: Tx, name: str) -> None:
    """Raises NotFound."""
    if not tx.run("DELETE FROM aggregates WHERE name = :name", name=name):
        raise missing(tx, "aggregate", name)
    second_copy.changed(tx)


def get(tx: Tx, name: str) -> Aggregate:
    """By name or id. Raises NotFound with near names."""
    row = tx.one("SELECT * FROM aggregates WHERE name = :name OR id = :name", name=name)
    if row is None:
        raise missing(tx, "aggregate", name)
    return _aggregate(row)


def everything(tx: Tx) -> list[Aggregate]:
    return [_aggregate(row) for row in tx.all("SELECT * FROM aggregates ORDER BY name")]


def names_by_host(tx: Tx) -> dict[str, list[str]]:
    """The names of the aggregates that each host is in, sorted; hosts that are in none are left out."""
    found: dict[str, list[str]] = {}
    for aggregate in everything(tx):
        for host in aggregate.hosts:
            found.setdefault(host, []).append(aggregate.name)
    return found


def drop_host(tx: Tx, host: str) -> None:
    """Take a host that leaves the fleet out of all of them."""
    for aggregate in everything(tx):
        if host in aggregate.hosts:
            left = tuple(name for name in aggregate.hosts if name != host)
            update(tx, Aggregate(**{**vars(aggregate), "hosts": left}))


def _columns(aggregate: Aggregate) -> dict[str, str]:
    return {"hosts": dumps(sorted(set(aggregate.hosts))), "metadata": dumps(aggregate.metadata)}


def _aggregate(row: Row) -> Aggregate:
    return Aggregate(
        id=row["id"],
        name=row["name"],
        hosts=tuple(json.loads(row["hosts"])),
        metadata=json.loads(row["metadata"]),
    )
