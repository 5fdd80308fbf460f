"""novactl snapshot: an image of an instance's disks."""

from typing import Annotated

import typer

from novactl.cli import render, verbs, views
from novactl.cli.image_store import brought
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import UsageError


def register(app: typer.Typer) -> None:
    """Hang the command on the root."""
    app.command()(snapshot)


def snapshot(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or uuid of an instance.")],
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="What the image will be called.")],
    live: Annotated[bool, typer.Option("--live", help="The guest runs on.  [default, when it runs]")] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Its memory is saved meanwhile; it goes on where it was.")
    ] = False,
    power_off: Annotated[
        bool, typer.Option("--power-off", help="It is shut down meanwhile, and started again.")
    ] = False,
    quiesce: Annotated[
        bool, typer.Option("--quiesce", help="Only if its agent freezes its file systems.")
    ] = False,
    root_only: Annotated[bool, typer.Option("--root-only", help="Without disk.local.")] = False,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="raw|qcow2", help="[default: raw; cold: as the disks, qcow2]"),
    ] = None,
    compress: Annotated[bool, typer.Option("--compress", help="A smaller qcow2, slower to make.")] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Make an image of an instance's disks. A guest that runs goes on running, and its agent, if one answers,
    freezes its file systems for the moment that is kept. Where that cannot be, it is copied cold, and the
    reason told. Whatever fails, the instance is as it was. Where images are shared (image store), it is
    brought there, unless --no-wait is given or the time runs out.

    novactl snapshot web1 web1-before-upgrade

    novactl snapshot web1 web1-consistent --quiesce

    novactl snapshot web1 web1-clean --power-off --compress

    novactl boot web2 --image web1-clean --flavor small
    """
    from novactl.actions.snapshot import Snapshot

    session = ctx.obj
    ways = [way for way, asked in (("live", live), ("cold", cold), ("power-off", power_off)) if asked]
    if len(ways) > 1:
        raise UsageError(f"--{ways[0]} and --{ways[1]} exclude each other")
    action = Snapshot(
        name=name,
        project=session.settings.project,
        image=image,
        how=ways[0] if ways else None,
        quiesce=quiesce,
        root_only=root_only,
        disk_format=form,
        compressed=compress,
    )
    if dry_run:
        verbs.dry_run(session, [action], many=False)
        return
    if verbs.run(session, [action], many=False, waiting=verbs.Waiting(no_wait, timeout, lock_wait)):
        from novactl.db import catalogue

        made = session.cloud.db.read(lambda tx: catalogue.image(tx, image))
        render.show(session, views.image(brought(session, made, "made")))
