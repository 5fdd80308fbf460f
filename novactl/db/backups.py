"""Backups of instances: named queries."""

import json

from novactl.db.session import Row, Tx, dumps
from novactl.errors import NotFound, Refused, UsageError
from novactl.objects.backup import Backup, beyond, chain, unneeded
from novactl.objects.names import near


def add(tx: Tx, made: Backup) -> None:
    tx.insert("backups", **_columns(made))


def _columns(one: Backup) -> Row:
    return {
        **vars(one),
        "files": dumps(one.files),
        "instance": dumps(one.instance),
        "quiesced": int(one.quiesced),
    }


def refuse_taken(tx: Tx, project: str, name: str) -> None:
    """Raises Refused when a backup of the project that is listed is called so."""
    if any(one.name == name and one.rotated_at is None for one in everything(tx, project=project)):
        raise Refused(f"backup {name} exists already", hint=f"novactl backup show {name}")


def everything(tx: Tx, *, project: str | None = None) -> list[Backup]:
    """The oldest first, those out of their rotation too."""
    found = [_backup(row) for row in tx.all("SELECT * FROM backups ORDER BY created_at, id")]
    return [one for one in found if project in (None, one.project)]


def of_instance(tx: Tx, uuid: str, type_: str | None = None) -> list[Backup]:
    """An instance's, the oldest first, those out of their rotation too."""
    rows = tx.all("SELECT * FROM backups WHERE instance_uuid = :uuid ORDER BY created_at, id", uuid=uuid)
    return [one for one in map(_backup, rows) if type_ in (None, one.type)]


def find(tx: Tx, name: str, project: str) -> Backup:
    """The one that a person means: by its id, or by its name in the project."""
    every = everything(tx, project=project)
    named = [one for one in every if one.id == name]
    named = named or [one for one in every if one.name == name and one.rotated_at is None]
    if not named:
        close = near(name, [one.name for one in every if one.rotated_at is None])
        hint = f"did you mean {', '.join(close)}?" if close else "novactl backup list"
        raise NotFound(f"backup {name!r} does not exist", hint=hint, candidates=close)
    if len(named) > 1:
        ids = ", ".join(one.id for one in named)
        raise UsageError(f"several backups are called {name}", hint=f"give one of the ids {ids}")
    return named[0]


def chain_of(tx: Tx, one: Backup) -> list[Backup]:
    """The whole one that it begins with, and each difference up to it. Raises NotFound."""
    found = chain(one, {each.id: each for each in of_instance(tx, one.instance_uuid)})
    if not found:
        raise NotFound(f"backup {one.name}: one that it is a difference to is gone")
    return found


def taken_since(tx: Tx, uuid: str, type_: str, since: str) -> bool:
    """Whether one of that type was made since then."""
    return any(one.created_at >= since for one in of_instance(tx, uuid, type_))


def rotate(tx: Tx, uuid: str, type_: str, rotation: int, now: str) -> list[Backup]:
    """Of the instance's backups of that type so many are kept; the others are out of it."""
    out = beyond(of_instance(tx, uuid, type_), rotation)
    for one in out:
        take_out(tx, one, now)
    return out


def make_whole(tx: Tx, one: Backup) -> None:
    """It is a difference to no other any more; its files are others."""
    tx.run(
        "UPDATE backups SET parent = NULL, files = :files, reason = :reason WHERE id = :id",
        files=dumps(one.files),
        reason=one.reason,
        id=one.id,
    )


def take_out(tx: Tx, one: Backup, now: str) -> None:
    """It is listed no more; it goes when no other is a difference to it."""
    tx.run("UPDATE backups SET rotated_at = :now WHERE id = :id", now=now, id=one.id)


def forget_unneeded(tx: Tx) -> list[Backup]:
    """Those out of their rotation that no other needs have no row any more."""
    gone = unneeded(everything(tx))
    for one in gone:
        tx.run("DELETE FROM backups WHERE id = :id", id=one.id)
    return gone


def stored_files(tx: Tx) -> set[str]:
    """SHA-256 of every file of the store that a backup needs, its instance's kernel and initrd too."""
    found: set[str] = set()
    for one in everything(tx):
        image = one.instance.get("image") or {}
        found.update(one.sums, filter(None, map(image.get, ("kernel_sha256", "initrd_sha256"))))
    return found


def _backup(row: Row) -> Backup:
    return Backup(
        **{
            **row,
            "files": json.loads(row["files"]),
            "instance": json.loads(row["instance"]),
            "quiesced": bool(row["quiesced"]),
        }
    )
