"""novactl start, stop, reboot, pause, suspend, lock, delete …: verbs that change one instance or many."""

from functools import partial
from typing import Annotated

import typer

from novactl.cli.chosen import Chosen, over_instances


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    for command in (start, stop, reboot, pause, unpause, suspend, resume, lock, unlock, delete):
        app.command()(command)


@over_instances
def start(
    chosen: Chosen,
    interrupted: Annotated[
        bool, typer.Option("--interrupted", help="Of these only those whose guest went off by itself.")
    ] = False,
) -> None:
    """Start instances: everything on the host is made again from the record.

    novactl start web1 web2

    What ran on a host before it was switched off, and not what had been stopped:

    novactl start --on kvm1 --interrupted
    """
    from novactl.actions.power import Start

    chosen.carry_out(Start, interrupted=interrupted)


@over_instances
def stop(
    chosen: Chosen,
    force: Annotated[bool, typer.Option("--force", help="Power off at once.")] = False,
) -> None:
    """Shut instances down: asked by ACPI, powered off after 60 seconds.

    novactl stop web1 --force
    """
    from novactl.actions.power import Stop

    chosen.carry_out(Stop, force=force)


@over_instances
def reboot(
    chosen: Chosen,
    hard: Annotated[
        bool, typer.Option("--hard", help="Power off at once, drop the domain and saved memory.")
    ] = False,
) -> None:
    """Restart guests: asked by ACPI to shut down, powered off after 120 seconds, and started again.

    novactl reboot web1

    All that the host has of them but their disks is made again; --hard does so at once, and brings back what
    does not answer any more:

    novactl reboot web1 --hard
    """
    from novactl.actions.power import Reboot

    chosen.carry_out(Reboot, hard=hard)


@over_instances
def pause(chosen: Chosen) -> None:
    """Make guests stand still, in memory.

    novactl pause web1
    """
    from novactl.actions.memory import Pause

    chosen.carry_out(Pause)


@over_instances
def unpause(chosen: Chosen) -> None:
    """Let paused guests go on.

    novactl unpause web1
    """
    from novactl.actions.memory import Unpause

    chosen.carry_out(Unpause)


@over_instances
def suspend(chosen: Chosen) -> None:
    """Save the memory of guests on their hosts' disks, and switch them off.

    novactl suspend web1 web2
    """
    from novactl.actions.memory import Suspend

    chosen.carry_out(Suspend)


@over_instances
def resume(
    chosen: Chosen,
    force: Annotated[
        bool, typer.Option("--force", help="Also with another QEMU than the one that saved it.")
    ] = False,
) -> None:
    """Let suspended guests go on where they were.

    novactl resume web1 web2
    """
    from novactl.actions.memory import Resume

    chosen.carry_out(Resume, force=force)


@over_instances
def lock(chosen: Chosen) -> None:
    """Refuse all that would change these instances, until they are unlocked.

    novactl lock db1
    """
    from novactl.actions.describe import Lock

    chosen.carry_out(Lock)


@over_instances
def unlock(chosen: Chosen) -> None:
    """Let locked instances be changed again.

    novactl unlock db1
    """
    from novactl.actions.describe import Lock

    chosen.carry_out(Lock, locked=False)


@partial(over_instances, all_=False)
def delete(
    chosen: Chosen,
    if_exists: Annotated[bool, typer.Option("--if-exists", help="Fine if it is gone.")] = False,
) -> None:
    """Delete instances and their disks.

    novactl delete web1 web2 --yes
    """
    from novactl.actions.delete import Delete

    chosen.confirm("delete", " and their disks")
    chosen.carry_out(Delete, if_exists=if_exists)
