"""novactl rescue, unrescue, rebuild, shelve, unshelve: instances that leave their disks for a while or for
good."""

from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli.chosen import Chosen, over_instances
from novactl.cli.image_store import bring_shelved
from novactl.errors import NovactlError, TimedOut


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    for command in (rescue, unrescue, rebuild, shelve, unshelve):
        app.command()(command)


@over_instances
def rescue(
    chosen: Chosen,
    image: Annotated[
        str | None, typer.Option("--image", metavar="I", help="Boot this one.  [default: the instance's]")
    ] = None,
) -> None:
    """Boot guests from a rescue image, their own disks behind it: vda is the rescue system, vdb the root
    disk that is to be repaired.

    novactl rescue web1

    novactl rescue web1 --image debian

    novactl unrescue web1
    """
    from novactl.actions.rescue import Rescue

    chosen.carry_out(Rescue, image=image)


@over_instances
def unrescue(chosen: Chosen) -> None:
    """Boot guests from their own disks again; what is on the rescue disk is lost.

    novactl unrescue web1
    """
    from novactl.actions.rescue import Unrescue

    chosen.carry_out(Unrescue)


@over_instances
def rebuild(
    chosen: Chosen,
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
) -> None:
    """Give instances new disks of an image: what was on the old ones is lost. Host, addresses and metadata
    stay, key and user-data unless others are given; one that is stopped stays so.

    novactl rebuild web1 --dry-run

    novactl rebuild web1 --yes

    novactl rebuild web1 --image debian --key me --yes
    """
    from novactl.actions.reimage import Reimage
    from novactl.cli.boot import content_of

    given: dict[str, Any] = {"key": key, "user_data": content_of(user_data)}
    chosen.confirm("rebuild", ": what is on their disks is lost")
    chosen.carry_out(Reimage, image=image, preserve_ephemeral=preserve_ephemeral, **given)


@over_instances
def shelve(
    chosen: Chosen,
    offload: Annotated[
        bool, typer.Option("--offload", help="Leave the host: nothing of them stays there.")
    ] = False,
) -> None:
    """Put instances away as images of their disks: their guests are shut down. They keep their hosts until
    they are offloaded, their names, addresses and quota in any case. Where images are shared (image store),
    theirs are brought there, unless --no-wait is given or the time runs out.

    novactl shelve web1

    novactl shelve web1 --offload

    novactl unshelve web1
    """
    from novactl.actions.shelve import Shelve

    failed: NovactlError | None = None
    try:
        chosen.carry_out(Shelve, offload=offload)
    except TimedOut:
        raise  # they go on without us
    except NovactlError as error:
        failed = error
    if not (chosen.dry_run or chosen.waiting.no_wait):
        unshared = bring_shelved(chosen.session, chosen.targets)
        failed = failed or unshared
    if failed is not None:
        raise failed


@over_instances
def unshelve(
    chosen: Chosen,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="On this host.")] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", metavar="Z", help="In this zone, and stay there.")
    ] = None,
) -> None:
    """Let shelved instances run again: where they are, or, when they are on no host, on one that is chosen.
    The image that was kept of them goes.

    novactl unshelve web1

    novactl unshelve web1 --host kvm2
    """
    from novactl.actions.unshelve import Unshelve

    chosen.carry_out(Unshelve, host=host, zone=zone)
