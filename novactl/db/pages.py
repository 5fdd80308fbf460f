"""Which instances are meant, in which order, and how many of them: filters in SQL.

What SQL cannot say of a JSON column it says roughly (LIKE on the text that dumps() makes), and what it lets
through is looked at again: never is more read than may be wanted.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from novactl.db import instances
from novactl.db.session import Row, Tx, among, dumps
from novactl.errors import NotFound
from novactl.objects.instance import Instance
from novactl.objects.states import words_of

SORT_KEYS = {
    "created_at": "created_at",
    "launched_at": "COALESCE(launched_at, '')",
    "name": "name",
    "uuid": "uuid",
    "host": "COALESCE(host, '')",
    "status": "vm_state",
    "power_state": "power_state",
}
OLDEST_FIRST = (("created_at", False), ("launch_index", False), ("name", False))
"""How a list is sorted that nobody wants otherwise; the uuid decides in the end."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A choice of instances; None and () leave all. `status` is the word users see; `selectors` are
    (key, value) of the metadata, or (tag, None). `flavor` and `image` as the instance keeps them: name or id.
    `ip` is an address, or a regular expression of it. `sort`: (key of SORT_KEYS, whether descending)."""

    project: str | None = None
    deleted: bool = False
    host: str | None = None
    status: str | None = None
    power_state: str | None = None
    name: re.Pattern[str] | None = None
    selectors: tuple[tuple[str, str | None], ...] = ()
    flavor: str | None = None
    image: str | None = None
    ip: str | re.Pattern[str] | None = None
    sort: tuple[tuple[str, bool], ...] = ()
    limit: int | None = None
    marker: str | None = None


def page(tx: Tx, wanted: Wanted) -> list[Instance]:
    """The instances wanted, in order. Raises NotFound when the marker is none of the project's."""
    if not _looks(tx, wanted):
        return instances.full(tx, _rows(tx, wanted, "*"))
    chosen = [row["uuid"] for row in _chosen(tx, wanted)]
    rows = {row["uuid"]: row for row in among(tx, "SELECT * FROM instances WHERE uuid IN", chosen)}
    return instances.full(tx, [rows[uuid] for uuid in chosen])


def names(tx: Tx, wanted: Wanted) -> dict[str, str]:
    """The names of the instances wanted by their uuids, in order."""
    return {row["uuid"]: row["name"] for row in _chosen(tx, wanted)}


def hosts_of(tx: Tx, wanted: Wanted) -> list[str]:
    """The hosts that instances wanted are on: whatever their states are said to be, since that is what a
    host is to be asked; of a page only when states do not choose it."""
    if wanted.status is not None or wanted.power_state is not None:
        wanted = replace(wanted, status=None, power_state=None, limit=None, marker=None)
    return sorted({row["host"] for row in _chosen(tx, wanted) if row["host"] is not None})


def _chosen(tx: Tx, wanted: Wanted) -> list[Row]:
    """uuid, name and host of each that is wanted."""
    looks = _looks(tx, wanted)
    columns = {"uuid", "name", "host"} | {column for column, _ in looks}
    if not looks:
        return _rows(tx, wanted, ", ".join(sorted(columns)))
    found: list[Row] = []
    for row in _rows(tx, replace(wanted, limit=None), ", ".join(sorted(columns))):
        if all(look(row[column]) for column, look in looks):
            found.append(row)
            if len(found) == wanted.limit:
                break
    return found


def _rows(tx: Tx, wanted: Wanted, columns: str) -> list[Row]:
    where, values = _where(wanted)
    order = [*((SORT_KEYS[key], down) for key, down in wanted.sort)] or list(OLDEST_FIRST)
    order.append(("uuid", False))
    if wanted.marker is not None:
        beyond, at = _beyond(tx, wanted, order)
        where.append(beyond)
        values |= at
    sql = f"SELECT {columns} FROM instances WHERE {' AND '.join(where)}"
    sql += f" ORDER BY {', '.join(f'{key} DESC' if down else key for key, down in order)}"
    if wanted.limit is not None:
        sql += " LIMIT :limit"
        values["limit"] = wanted.limit
    return tx.all(sql, **values)


def _where(wanted: Wanted) -> tuple[list[str], dict[str, Any]]:
    where = ["deleted_at IS NOT NULL" if wanted.deleted else "deleted_at IS NULL"]
    values: dict[str, Any] = {}
    for column in ("project", "host", "power_state"):
        if (value := getattr(wanted, column)) is not None:
            where.append(f"{column} = :{column}")
            values[column] = value
    if wanted.status is not None:
        where.append(_status(wanted.status, values))
    likes = [(column, f"%{_escaped(part)}%") for column, part in _parts(wanted)]
    for n, (column, like) in enumerate(likes):
        where.append(f"{column} LIKE :like{n} ESCAPE '!'")
        values[f"like{n}"] = like
    if isinstance(wanted.ip, str):
        where.append("uuid IN (SELECT instance_uuid FROM ports WHERE ip = :ip)")
        values["ip"] = wanted.ip
    return where, values


def _status(word: str, values: dict[str, Any]) -> str:
    """The rows that users see under this word (objects.states.status)."""
    states, tasks, hidden = words_of(word)
    values |= {f"state{n}": state for n, state in enumerate(states)}
    values |= {f"task{n}": task for n, task in enumerate((*tasks, *hidden))}
    names = [f":task{n}" for n in range(len(tasks) + len(hidden))]
    either: list[str] = []
    if tasks:
        either.append(f"task_state IN ({', '.join(names[: len(tasks)])})")
    if states:
        shown = f"vm_state IN ({', '.join(f':state{n}' for n in range(len(states)))})"
        either.append(
            f"({shown} AND (task_state IS NULL OR task_state NOT IN ({', '.join(names[len(tasks) :])})))"
        )
    return f"({' OR '.join(either)})"


def _parts(wanted: Wanted) -> Iterator[tuple[str, str]]:
    """What stands in a JSON column of each row that is wanted."""
    for key, value in wanted.selectors:
        if value is None:
            yield "tags", dumps(key)
        else:
            yield "metadata", f"{dumps(key)}: {dumps(value)}"
    for column in ("flavor", "image"):
        if (value := getattr(wanted, column)) is not None:
            yield column, f": {dumps(value)}"


def _escaped(text: str) -> str:
    return re.sub(r"([!%_])", r"!\1", text)


def _looks(tx: Tx, wanted: Wanted) -> list[tuple[str, Callable[[Any], bool]]]:
    """What is looked at again: (column, whether its value is wanted)."""
    looks: list[tuple[str, Callable[[Any], bool]]] = []
    if wanted.name is not None:
        looks.append(("name", partial(_matches, wanted.name)))
    if isinstance(wanted.ip, re.Pattern):
        ports = tx.all("SELECT instance_uuid, ip FROM ports")
        having = {row["instance_uuid"] for row in ports if wanted.ip.search(row["ip"])}
        looks.append(("uuid", having.__contains__))
    for key, value in wanted.selectors:
        if value is None:
            looks.append(("tags", partial(_tagged, key)))
        else:
            looks.append(("metadata", partial(_labelled, key, value)))
    for column in ("flavor", "image"):
        if (value := getattr(wanted, column)) is not None:
            looks.append((column, partial(_called, value)))
    return looks


def _matches(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.search(text) is not None


def _tagged(tag: str, tags: str) -> bool:
    return tag in json.loads(tags)


def _labelled(key: str, value: str, metadata: str) -> bool:
    return bool(json.loads(metadata).get(key) == value)


def _called(name: str, kept: str | None) -> bool:
    found = json.loads(kept) if kept else {}
    return name in (found.get("name"), found.get("id"))


def _beyond(tx: Tx, wanted: Wanted, order: Sequence[tuple[str, bool]]) -> tuple[str, dict[str, Any]]:
    """The rows after the marker: later in the first key, or the same in it and later in the next …"""
    keys = ", ".join(f"{key} AS k{n}" for n, (key, _) in enumerate(order))
    row = tx.one(f"SELECT project, {keys} FROM instances WHERE uuid = :uuid", uuid=wanted.marker)
    if row is None or wanted.project not in (None, row["project"]):
        raise NotFound(
            f"marker {wanted.marker} is no instance", hint="it is the uuid of the last one of the page before"
        )
    values = {f"m{n}": row[f"k{n}"] for n in range(len(order))}
    alternatives: list[str] = []
    for n, (key, down) in enumerate(order):
        same = [f"{order[i][0]} = :m{i}" for i in range(n)]
        alternatives.append(" AND ".join([*same, f"{key} {'<' if down else '>'} :m{n}"]))
    return "(" + " OR ".join(f"({each})" for each in alternatives) + ")", values
