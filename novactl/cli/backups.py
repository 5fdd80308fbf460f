"""novactl backup …"""

from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import render, verbs, views
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import UsageError

COLUMNS = ("name", "instance", "type", "kind", "size_bytes", "created_at")
PRUNED_COLUMNS = ("backup", "instance", "type", "result")
DISK_COLUMNS = ("file", "disk", "format", "size_bytes", "sha256")

app = typer.Typer(help="Backups of instances' disks.", no_args_is_help=True, rich_markup_mode=None)

Backup = Annotated[str, typer.Argument(metavar="BACKUP", help="Name or id of a backup.")]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="backup")


@app.command()
def create(
    ctx: typer.Context,
    instance: Annotated[str, typer.Argument(metavar="NAME", help="Name or uuid of an instance.")],
    name: Annotated[str, typer.Option("--name", metavar="B", help="Of the backup.")],
    type_: Annotated[str, typer.Option("--type", metavar="daily|weekly", help="Each has its rotation.")],
    rotate: Annotated[int, typer.Option("--rotate", metavar="N", help="Keep so many of this type.")],
    full: Annotated[bool, typer.Option("--full", help="All of the disks.")] = False,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="What changed since the last one, or nothing.")
    ] = False,
    quiesce: Annotated[bool, typer.Option("--quiesce", help="Freeze the guest's filesystems.")] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Copy an instance's disks into the image store.

    A guest that runs goes on; the copy is of one moment. The first backup is a full one; later ones hold what
    changed since, where the disks have noted that.

    novactl backup create web1 --name web1-mon --type daily --rotate 7

    novactl backup create web1 --name web1-w12 --type weekly --rotate 4 --full --quiesce
    """
    from novactl.actions.backups import BackUp
    from novactl.db import backups

    session = ctx.obj
    project = session.settings.project
    action = BackUp(
        name=instance,
        project=project,
        backup=name,
        type=type_,
        rotation=rotate,
        full=full,
        incremental=incremental,
        quiesce=quiesce,
    )
    if dry_run:
        verbs.dry_run(session, [action], many=False)
        return
    waiting = verbs.Waiting(no_wait, timeout, lock_wait)
    if verbs.run(session, [action], many=False, waiting=waiting):
        made = session.cloud.db.read(lambda tx: _view(backups.find(tx, name, project)))
        if made["reason"]:
            session.tell(f"backup {name} is a full one: {made['reason']}")
        render.show(session, made)


@app.command("list")
def list_(
    ctx: typer.Context,
    instance: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Those of this instance, which may be deleted.")
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="daily|weekly", help="Those of this type.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that are kept for others that hang on them.")
    ] = False,
) -> None:
    """List backups, the oldest first.

    novactl backup list web1
    """
    from novactl.db import backups
    from novactl.objects.backup import check_type

    if type_ is not None:
        check_type(type_)
    uuid = _uuid(ctx.obj, instance)
    found = ctx.obj.cloud.db.read(lambda tx: backups.everything(tx, project=ctx.obj.settings.project))
    items = [
        _view(one)
        for one in found
        if (everything or one.rotated_at is None)
        and uuid in (None, one.instance_uuid)
        and type_ in (None, one.type)
    ]
    render.listing(ctx.obj, items, COLUMNS)


@app.command()
def show(ctx: typer.Context, backup: Backup) -> None:
    """Show a backup.

    novactl backup show web1-mon
    """
    render.show(ctx.obj, _view(_find(ctx.obj, backup)))


@app.command()
def restore(
    ctx: typer.Context,
    backup: Backup,
    as_: Annotated[
        str | None,
        typer.Option("--as", metavar="NEWNAME", help="Of the new instance.  [default: as it was]"),
    ] = None,
    in_place: Annotated[
        str | None,
        typer.Option("--in-place", metavar="NAME", help="Into the instance, which is off."),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="H", help="A new one on this host.")] = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Make an instance that begins as it was backed up.

    A new one has the flavor, key, networks and metadata of the old one, and other addresses. With --in-place
    the disks of the instance itself are replaced: it must be stopped.

    novactl backup restore web1-mon --as web1-restored

    novactl stop web1

    novactl backup restore web1-mon --in-place web1
    """
    from novactl.actions import backup_files, restore

    session = ctx.obj
    if as_ is not None and in_place is not None:
        raise UsageError("--as and --in-place exclude each other")
    if in_place is not None and host is not None:
        raise UsageError("--in-place keeps the instance on its host", hint="novactl migrate")
    found = _find(session, backup)
    session.progress.note(f"{found.name}: checking its files")
    cloud, project = session.cloud, session.settings.project

    def action() -> Any:
        if in_place is not None:
            return restore.RestoreHere(name=in_place, project=project, backup=found)
        name = as_ or found.instance_name
        request = restore.request_of(found, name, host)
        return restore.RestoreAs(request=request, name=name, backup=found)

    if dry_run:
        verbs.dry_run(session, [action()], many=False)
        return
    action().check(cloud.world)  # before files are read through
    try:
        found = backup_files.made_whole(cloud.world, cloud.store, found)
    finally:
        session.progress.clear()
    outcomes = verbs.run(session, [action()], many=False, waiting=verbs.Waiting(no_wait, timeout, lock_wait))
    if outcomes:
        render.show(session, views.instance(outcomes[0].instance))


@app.command()
def export(
    ctx: typer.Context,
    backup: Backup,
    where: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", help="A new directory, or a new .qcow2 or .raw file.")
    ],
    disk_format: Annotated[
        str | None, typer.Option("--format", metavar="qcow2|raw", help="Of the disks.  [default: qcow2]")
    ] = None,
) -> None:
    """Write a backup as files that qemu-img alone can restore.

    Each disk is one file that needs no other; a manifest with their SHA-256 is beside them.

    novactl backup export web1-mon /mnt/usb/web1
    """
    from novactl.actions import backup_files

    session = ctx.obj
    found = _find(session, backup)
    session.progress.note(f"{found.name}: checking and writing its files")
    try:
        manifest = backup_files.export(session.cloud.world, found, where, disk_format)
    finally:
        session.progress.clear()
    if session.output == "table":
        render.listing(session, manifest["disks"], DISK_COLUMNS)
    else:
        render.show(session, manifest)


@app.command()
def prune(
    ctx: typer.Context,
    instance: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Those of this instance.")] = None,
    rotate: Annotated[
        int | None,
        typer.Option("--rotate", metavar="N", help="Keep so many of each type.  [default: as created]"),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Remove backups that newer ones have pushed out.

    One on which a kept one depends goes with that.

    novactl backup prune web1 --rotate 3 --dry-run
    """
    from novactl.actions import backup_files

    session = ctx.obj
    uuid, project = _uuid(session, instance), session.settings.project
    found = backup_files.pruned(session.cloud.world, project, uuid, rotate, dry_run=dry_run)
    render.listing(session, found, PRUNED_COLUMNS)


@app.command()
def delete(ctx: typer.Context, backup: Backup) -> None:
    """Remove a backup; its files stay while another depends on them.

    novactl backup delete web1-mon
    """
    from novactl.actions import backup_files

    session = ctx.obj
    found = _find(session, backup)
    session.confirm(f"delete backup {found.name} of {found.instance_name}?")
    backup_files.delete(session.cloud.world, session.settings.project, found.id)
    session.tell(f"backup {found.name} deleted")
    _forget_notes(session, found)


def _forget_notes(session: Any, deleted: Any) -> None:
    """The disks of its instance note nothing for it any more; where that cannot be now, the next backup does
    it."""
    from novactl.actions.notes import ForgetNotes
    from novactl.db import instances
    from novactl.errors import NotFound, NovactlError

    try:
        found = session.cloud.db.read(lambda tx: instances.get(tx, deleted.instance_uuid))
    except NotFound:
        return
    if found.host is None or not deleted.checkpoint:
        return
    action = ForgetNotes(name=found.uuid, project=found.project, files=tuple(deleted.files))
    error: NovactlError | None = None
    try:
        (outcome,) = session.cloud.operator.run([action])
        error = outcome.error
    except NovactlError as caught:
        error = caught
    session.progress.clear()
    if error is not None:
        session.tell(
            f"{found.name}: its disks note what changed since it until its next backup: {error.message}"
        )


def _find(session: Any, name: str) -> Any:
    from novactl.db import backups

    return session.cloud.db.read(lambda tx: backups.find(tx, name, session.settings.project))


def _uuid(session: Any, name: str | None) -> str | None:
    """Of the instance, which lives or of which there are backups."""
    from novactl.db import backups
    from novactl.errors import NotFound

    if name is None:
        return None
    try:
        return str(verbs.find(session, name, prefix=True).uuid)
    except NotFound:
        every = session.cloud.db.read(lambda tx: backups.everything(tx, project=session.settings.project))
        known: set[str] = {
            one.instance_uuid for one in every if name in (one.instance_name, one.instance_uuid)
        }
        if len(known) != 1:
            raise
        return known.pop()


def _view(one: Any) -> dict[str, Any]:
    """A backup, for people and scripts."""
    return {
        "id": one.id,
        "name": one.name,
        "instance": one.instance_name,
        "instance_uuid": one.instance_uuid,
        "project": one.project,
        "type": one.type,
        "rotation": one.rotation,
        "kind": one.kind,
        "parent": one.parent,
        "reason": one.reason or None,
        "quiesced": one.quiesced,
        "size_bytes": one.size_bytes,
        "files": one.files,
        "created_at": views.time(one.created_at),
        "rotated_at": views.time(one.rotated_at),
    }
