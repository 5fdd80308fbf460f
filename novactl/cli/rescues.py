"""novactl rescue, unrescue, rebuild, shelve, unshelve: instances that leave their disks for a while or for
good."""

from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import lifecycle, verbs
from novactl.cli.image_store import bring_shelved
from novactl.cli.options import All, DryRun, LockWait, Names, NoWait, On, Selector, Timeout
from novactl.errors import NovactlError, TimedOut


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    for command in (rescue, unrescue, rebuild, shelve, unshelve):
        app.command()(command)


def rescue(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    image: Annotated[
        str | None, typer.Option("--image", metavar="I", help="Boot this one.  [default: the instance's]")
    ] = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Boot guests from a rescue image, their own disks behind it: vda is the rescue system, vdb the root
    disk that is to be repaired.

    novactl rescue web1

    novactl rescue web1 --image debian

    novactl unrescue web1
    """
    from novactl.actions.rescue import Rescue

    project = ctx.obj.settings.project
    targets = lifecycle.targets_of(ctx.obj, names, selector, on, everything)
    lifecycle.carry_out(
        ctx.obj,
        targets,
        lambda name: Rescue(name=name, project=project, image=image),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def unrescue(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Boot guests from their own disks again; what is on the rescue disk is lost.

    novactl unrescue web1
    """
    from novactl.actions.rescue import Unrescue

    project = ctx.obj.settings.project
    targets = lifecycle.targets_of(ctx.obj, names, selector, on, everything)
    lifecycle.carry_out(
        ctx.obj,
        targets,
        lambda name: Unrescue(name=name, project=project),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def rebuild(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    image: Annotated[
        str | None, typer.Option("--image", metavar="I", help="Of this one.  [default: the instance's]")
    ] = None,
    preserve_ephemeral: Annotated[
        bool, typer.Option("--preserve-ephemeral", help="Keep disk.local and what is on it.")
    ] = False,
    key: Annotated[
        str | None, typer.Option("--key", metavar="K", help="Another keypair for its user.")
    ] = None,
    user_data: Annotated[
        Path | None, typer.Option("--user-data", metavar="FILE", help="Other cloud-init data; - for stdin.")
    ] = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Give instances new disks of an image: what was on the old ones is lost. Host, addresses and metadata
    stay, key and user-data unless others are given; one that is stopped stays so.

    novactl rebuild web1 --dry-run

    novactl rebuild web1 --yes

    novactl rebuild web1 --image debian --key me --yes
    """
    from novactl.actions.reimage import Reimage
    from novactl.cli.boot import content_of

    project = ctx.obj.settings.project
    targets = lifecycle.targets_of(ctx.obj, names, selector, on, everything)
    given: dict[str, Any] = {"key": key, "user_data": content_of(user_data)}
    if targets and not dry_run:
        ctx.obj.confirm(f"rebuild {', '.join(targets.values())}: what is on their disks is lost?")
    lifecycle.carry_out(
        ctx.obj,
        targets,
        lambda name: Reimage(
            name=name, project=project, image=image, preserve_ephemeral=preserve_ephemeral, **given
        ),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def shelve(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    offload: Annotated[
        bool, typer.Option("--offload", help="Leave the host: nothing of them stays there.")
    ] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Put instances away as images of their disks: their guests are shut down. They keep their hosts until
    they are offloaded, their names, addresses and quota in any case. Where images are shared (image store),
    theirs are brought there, unless --no-wait is given or the time runs out.

    novactl shelve web1

    novactl shelve web1 --offload

    novactl unshelve web1
    """
    from novactl.actions.shelve import Shelve

    project = ctx.obj.settings.project
    targets = lifecycle.targets_of(ctx.obj, names, selector, on, everything)
    failed: NovactlError | None = None
    try:
        lifecycle.carry_out(
            ctx.obj,
            targets,
            lambda name: Shelve(name=name, project=project, offload=offload),
            dry_run,
            verbs.Waiting(no_wait, timeout, lock_wait),
        )
    except TimedOut:
        raise  # they go on without us
    except NovactlError as error:
        failed = error
    if not (dry_run or no_wait):
        unshared = bring_shelved(ctx.obj, targets)
        failed = failed or unshared
    if failed is not None:
        raise failed


def unshelve(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="On this host.")] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", metavar="Z", help="In this zone, and stay there.")
    ] = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Let shelved instances run again: where they are, or, when they are on no host, on one that is chosen.
    The image that was kept of them goes.

    novactl unshelve web1

    novactl unshelve web1 --host kvm2
    """
    from novactl.actions.unshelve import Unshelve

    project = ctx.obj.settings.project
    targets = lifecycle.targets_of(ctx.obj, names, selector, on, everything)
    lifecycle.carry_out(
        ctx.obj,
        targets,
        lambda name: Unshelve(name=name, project=project, host=host, zone=zone),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )
