"""What is done with the files of backups: checked, made whole, exported, removed."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from novactl.actions.steps.backups import remove_unneeded
from novactl.actions.steps.images import swept
from novactl.actions.world import World
from novactl.db import backups
from novactl.db.session import Tx
from novactl.errors import NovactlError, Refused, UsageError
from novactl.images.assemble import assemble
from novactl.images.blocks import blocks, sha256_of, write_at
from novactl.images.incoming import StoredImage
from novactl.objects.backup import Backup, beyond, check_rotation, unneeded
from novactl.objects.image import MARGIN, MIB

SUFFIXES = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw"}
"""Of a file that an export is made to: its format."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def checked(world: World, one: Backup) -> list[Backup]:
    """The whole backup that it begins with, and each difference up to it, when every file of theirs is in the
    store with its hash. Raises Refused."""
    parts = world.db.read(lambda tx: backups.chain_of(tx, one))
    for part in parts:
        for file, stored in part.files.items():
            sha256 = stored["sha256"]
            if not world.store.has(sha256):
                raise Refused(f"backup {one.name}: {file} of {part.name} is not in the image store")
            if sha256_of(world.store.path(sha256)) != sha256:
                raise Refused(
                    f"backup {one.name}: {file} of {part.name} is damaged in the image store",
                    hint="an older backup may be whole: novactl backup list",
                )
    return parts


def _paths(world: World, parts: Sequence[Backup], file: str) -> list[Path]:
    return [world.store.path(part.files[file]["sha256"]) for part in parts]


def made_whole(world: World, store: Any, one: Backup) -> Backup:
    """The backup with files that need no other; one that was a difference is whole from now on."""
    parts = checked(world, one)
    if len(parts) == 1:
        return one
    _refuse_full(store, one, parts)
    with ExitStack() as scratch:
        made = {}
        for file in one.files:
            made[file] = scratch.enter_context(store.scratch())
            assemble(_paths(world, parts, file), made[file], "qcow2", one.files[file]["virtual_size_bytes"])
        return _keep_whole(world, store, one, made)


def _refuse_full(store: Any, one: Backup, parts: Sequence[Backup]) -> None:
    """Raises Refused when there is no room for a file as large as all that it is made of."""
    needed = sum(stored["size_bytes"] for part in parts for stored in part.files.values())
    if (room := store.room() - MARGIN) < needed:
        raise Refused(
            f"backup {one.name}: its disks may take {-(-needed // MIB)} MiB in the store,"
            f" {max(0, room // MIB)} MiB are free",
            hint="free some space there",
        )


def _keep_whole(world: World, store: Any, one: Backup, made: dict[str, Path]) -> Backup:
    """These files, all of them, are the backup's from now on; else none of them stays."""
    taken: dict[str, StoredImage] = {}

    def sweep(tx: Tx) -> None:
        swept(store, tx, one.sums | {stored.sha256 for stored in taken.values()})

    try:
        for file, path in made.items():
            taken[file] = store.take(path, declared="qcow2")
        whole = replace(
            one,
            files={file: _recorded(stored) for file, stored in taken.items()},
            parent=None,
            reason="made whole when it was restored",
        )

        def keep(tx: Tx) -> None:
            if one not in backups.everything(tx) or not all(store.has(sha256) for sha256 in whole.sums):
                raise Refused(f"backup {one.name}: was changed by another command just now", hint="try again")
            backups.make_whole(tx, whole)

        world.db.write(keep)
    finally:  # not before it is committed: until then the difference is all there is
        world.db.write(sweep)
    remove_unneeded(world)
    return whole


def _recorded(stored: StoredImage) -> dict[str, Any]:
    return {
        "sha256": stored.sha256,
        "size_bytes": stored.size_bytes,
        "disk_format": stored.info.format,
        "virtual_size_bytes": stored.info.virtual_size_bytes,
    }


# --- export ---


def export(world: World, one: Backup, where: Path, disk_format: str | None) -> dict[str, Any]:
    """Each disk as a file that needs no other, in a new directory with a manifest; or, where `where` ends as
    the file of a disk does, its one disk there, with the manifest beside it. The manifest."""
    if where.suffix in SUFFIXES:
        if disk_format not in (None, SUFFIXES[where.suffix]):
            raise UsageError(f"{where}: does not end as a {disk_format} file does")
        return _export_file(world, one, where, SUFFIXES[where.suffix])
    disk_format = disk_format or "qcow2"
    if disk_format not in SUFFIXES.values():
        raise UsageError(f"--format {disk_format!r} is not one of qcow2, raw")
    if where.exists():
        raise Refused(f"{where} exists already", hint="name a directory that does not")
    parts = checked(world, one)
    with _explained(where), tempfile.TemporaryDirectory(dir=where.absolute().parent) as made:
        new = Path(made) / "new"
        new.mkdir(0o700)  # as the store: it has all that was on the guest's disks
        names = {file: f"{file}.{disk_format}" for file in one.files}
        for file, name in names.items():
            assemble(
                _paths(world, parts, file), new / name, disk_format, one.files[file]["virtual_size_bytes"]
            )
        manifest = _manifest(one, new, names, disk_format)
        _write(new / "manifest.json", manifest)
        (new / "README").write_text(_readme(one, names, disk_format))
        new.rename(where)
    return manifest


def _export_file(world: World, one: Backup, where: Path, disk_format: str) -> dict[str, Any]:
    beside = where.with_name(f"{where.name}.json")
    if len(one.files) > 1:
        raise Refused(f"backup {one.name} has {len(one.files)} disks", hint="export it to a directory")
    if where.exists() or beside.exists():
        raise Refused(f"{where if where.exists() else beside} exists already", hint="name one that does not")
    (file,) = one.files
    parts = checked(world, one)
    with _explained(where), tempfile.TemporaryDirectory(dir=where.absolute().parent) as made:
        new = Path(made) / where.name
        assemble(_paths(world, parts, file), new, disk_format, one.files[file]["virtual_size_bytes"])
        _make_private(new)
        manifest = _manifest(one, Path(made), {file: where.name}, disk_format)
        _write(Path(made) / beside.name, manifest)
        for path in (where, beside):
            _put(Path(made) / path.name, path)
    return manifest


def _put(made: Path, where: Path) -> None:
    """The file is there. What appeared there meanwhile, a link too, is not written over: FileExistsError."""
    try:
        os.link(made, where)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _copy(made, where)


def _copy(made: Path, where: Path) -> None:
    """As _put, on a file system that has no links, as on many a USB stick."""
    fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with made.open("rb") as file:
            size, at = os.fstat(file.fileno()).st_size, 0
            for hole, data in blocks(file.fileno(), size):
                if not hole:
                    write_at(fd, data, at)
                at += len(data)
        os.ftruncate(fd, size)
    except BaseException:
        where.unlink()
        raise
    finally:
        os.close(fd)


def _make_private(path: Path) -> None:
    with suppress(PermissionError):  # it is ours: such a file system has one mode for all, by its mount
        path.chmod(0o600)


@contextmanager
def _explained(where: Path) -> Iterator[None]:
    """Errors of the system as errors of ours."""
    try:
        yield
    except OSError as error:
        raise NovactlError(f"{where}: cannot export to it: {error.strerror}") from error


def _manifest(one: Backup, directory: Path, names: dict[str, str], disk_format: str) -> dict[str, Any]:
    disks = [
        {
            "file": name,
            "disk": file,
            "format": disk_format,
            "sha256": sha256_of(directory / name),
            "size_bytes": (directory / name).stat().st_size,
            "virtual_size_bytes": one.files[file]["virtual_size_bytes"],
        }
        for file, name in names.items()
    ]
    shown = {key: getattr(one, key) for key in ("id", "name", "type", "created_at", "quiesced", "instance")}
    shown["instance"] = {key: value for key, value in one.instance.items() if key != "user_data"}
    return {"backup": shown, "disks": disks}


def _write(path: Path, manifest: dict[str, Any]) -> None:
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    _make_private(path)


def _readme(one: Backup, names: dict[str, str], disk_format: str) -> str:
    lines = [
        f"Backup {one.name} of instance {one.instance_name} ({one.instance_uuid}), {one.created_at}.",
        "Each disk is one file that needs no other; manifest.json has their SHA-256. To restore one:",
        "",
    ]
    lines += [f"    qemu-img convert -f {disk_format} -O raw {name} TARGET" for name in names.values()]
    return "\n".join(lines) + "\n"


# --- rotation, and removal by name ---


def pruned(
    world: World, project: str, uuid: str | None, rotation: int | None, *, dry_run: bool
) -> list[dict[str, Any]]:
    """Of each instance (of this one) so many backups of each type are kept, as many as its newest says when
    `rotation` is None; {backup, instance, type, result} of each other one: removed, or kept because one that
    is kept is a difference to it."""
    if rotation is not None:
        check_rotation(rotation)

    def work(tx: Tx) -> list[dict[str, Any]]:
        every = [one for one in backups.everything(tx, project=project) if uuid in (None, one.instance_uuid)]
        out = {one.id for one in every if one.rotated_at is not None}
        for key in {(one.instance_uuid, one.type) for one in every if one.rotated_at is None}:
            some = [one for one in every if (one.instance_uuid, one.type) == key]
            newest = [one for one in some if one.rotated_at is None][-1]
            for one in beyond(some, rotation or newest.rotation):
                backups.take_out(tx, one, world.clock.now())
                out.add(one.id)
        after = backups.everything(tx, project=project)
        gone = {one.id for one in unneeded(after)}
        return [
            {
                "backup": one.name,
                "instance": one.instance_name,
                "type": one.type,
                "result": "removed" if one.id in gone else "kept",
            }
            for one in every
            if one.id in out
        ]

    if dry_run:
        return world.db.rehearse(work)
    found = world.db.write(work)
    remove_unneeded(world)
    return found


def delete(world: World, project: str, name: str) -> Backup:
    """Listed no more; its files go when no other is a difference to it."""

    def work(tx: Tx) -> Backup:
        one = backups.find(tx, name, project)
        backups.take_out(tx, one, world.clock.now())
        return one

    one = world.db.write(work)
    remove_unneeded(world)
    return one
