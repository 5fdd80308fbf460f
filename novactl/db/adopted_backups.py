"""Rows of backups made from the records that lie beside their files. All of it is looked at here before
anything is written, and nothing that is in the database already is changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from novactl.db import backups
from novactl.db.session import Tx
from novactl.errors import UsageError
from novactl.objects import names
from novactl.objects.backup import Backup, chain, check_request

SIZES = ("size_bytes", "virtual_size_bytes")


def backup_of(uuid: str, told: Mapping[str, Any]) -> Backup:
    """What a record tells. Pure. Raises KeyError, TypeError or UsageError for what makes no sense."""
    made = Backup(**told)
    check_request(made.name, made.type, made.rotation)
    if made.id != uuid or "disk" not in made.files or not set(made.files) <= {"disk", "disk.local"}:
        raise UsageError(f"the record of backup {uuid} in the store is another's")
    for key in filter(None, (made.instance_uuid, made.parent)):
        names.check_pattern(key, names.UUID, "uuid")
    for stored in made.files.values():
        names.base_name(stored["sha256"])
        if stored["disk_format"] not in ("raw", "qcow2") or any(int(stored[size]) < 0 for size in SIZES):
            raise UsageError(f"the files of backup {made.name} make no sense")
    names.check_name(made.project, "project")
    names.check_name(made.instance_name, "instance name")
    if not isinstance(made.instance["ports"], list) or not isinstance(made.created_at, str):
        raise UsageError(f"the record of backup {made.name} makes no sense")
    return made


def restore(tx: Tx, made: Sequence[Backup], has: Callable[[str], bool]) -> Iterator[tuple[str, str, str]]:
    """Each of them that is whole: (kind, name, what is wrong). `has`: whether a file is in the store."""
    by_id = {one.id: one for one in (*backups.everything(tx), *made)}
    taken = {(one.project, one.name) for one in backups.everything(tx) if one.rotated_at is None}
    for one in sorted(made, key=lambda each: (each.created_at, each.id)):
        parts = chain(one, by_id)
        if not parts or not all(has(sum_) for part in parts for sum_ in part.sums):
            del by_id[one.id]
            yield "backup", one.name, "files that it needs are not in the store"
        elif one.rotated_at is None and (one.project, one.name) in taken:
            del by_id[one.id]  # nor is what is a difference to it
            yield "backup", one.name, f"another backup of project {one.project} has that name"
        else:
            backups.add(tx, one)
            taken.add((one.project, one.name))
            yield "backup", one.name, ""
