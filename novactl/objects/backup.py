"""A backup of an instance's disks, kept in the image store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from novactl.errors import UsageError
from novactl.objects.image import base_format
from novactl.objects.names import check_name

TYPES = ("daily", "weekly")
MOST_KEPT = 1_000_000  # of a type: a database's integer holds it


@dataclass(frozen=True, kw_only=True)
class Backup:
    """The disks as they were at one moment. `files`: by file of the instance {sha256, size_bytes,
    virtual_size_bytes, disk_format}. `parent`: the backup that it is a difference to; None for a whole one,
    and `reason` says why it is whole. `checkpoint`: what the disks on the host call their note of what has
    changed since; "" for none. `instance`: what it was of (virt.domain.record), with its user-data as
    db.secrets.sealed() has it. `rotated_at`: it is out of its rotation, and kept only while one that is a
    difference to it is."""

    id: str
    name: str
    instance_uuid: str
    instance_name: str
    project: str
    type: str
    rotation: int
    parent: str | None = None
    reason: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoint: str = ""
    quiesced: bool = False
    instance: dict[str, Any] = field(default_factory=dict)
    created_at: str = ""
    rotated_at: str | None = None

    @property
    def kind(self) -> str:
        return "incremental" if self.parent else "full"

    @property
    def size_bytes(self) -> int:
        return sum(int(file["size_bytes"]) for file in self.files.values())

    @property
    def sums(self) -> set[str]:
        """SHA-256 of its files in the store."""
        return {file["sha256"] for file in self.files.values()}

    @property
    def base_formats(self) -> dict[str, str]:
        """As Image.base_formats."""
        return {file["sha256"]: base_format(file["disk_format"]) for file in self.files.values()}


def check_request(name: str, type_: str, rotation: int) -> None:
    """Raises UsageError for what no backup can be called, or kept as."""
    check_name(name, "backup name")
    check_type(type_)
    check_rotation(rotation)


def check_type(type_: str) -> None:
    if type_ not in TYPES:
        raise UsageError(f"--type {type_!r} is not one of {', '.join(TYPES)}")


def check_rotation(rotation: int) -> None:
    if rotation < 1:
        raise UsageError(
            f"--rotate {rotation}: at least 1 backup is kept", hint="novactl backup delete removes one"
        )
    if rotation > MOST_KEPT:
        raise UsageError(f"--rotate {rotation}: at most {MOST_KEPT} backups are kept")


def chain(one: Backup, by_id: Mapping[str, Backup]) -> list[Backup]:
    """The whole backup that it begins with, then each difference, up to itself; empty when one is gone."""
    found = [one]
    while found[0].parent is not None:
        parent = by_id.get(found[0].parent)
        if parent is None or parent in found:
            return []
        found.insert(0, parent)
    return found


def unneeded(every: Sequence[Backup]) -> list[Backup]:
    """Those out of their rotation on which none that is kept depends. Pure."""
    by_id = {one.id: one for one in every}
    needed = {part.id for one in every if one.rotated_at is None for part in chain(one, by_id)}
    return [one for one in every if one.rotated_at is not None and one.id not in needed]


def beyond(every: Sequence[Backup], rotation: int) -> list[Backup]:
    """Of one instance's of one type: those that so many newer ones push out. Pure."""
    kept = sorted((one for one in every if one.rotated_at is None), key=lambda one: (one.created_at, one.id))
    return kept[:-rotation]
