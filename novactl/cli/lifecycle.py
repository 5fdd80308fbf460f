"""novactl start, stop, reboot, pause, suspend, lock, delete …: verbs that change one instance or many."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from novactl.cli import verbs
from novactl.cli.options import All, DryRun, LockWait, Names, NoWait, On, Selector, Timeout
from novactl.errors import UsageError


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    for command in (start, stop, reboot, pause, unpause, suspend, resume, lock, unlock, delete):
        app.command()(command)


def start(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    interrupted: Annotated[
        bool, typer.Option("--interrupted", help="Of these only those whose guest went off by itself.")
    ] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Start instances: everything on the host is made again from the record.

    novactl start web1 web2

    What ran on a host before it was switched off, and not what had been stopped:

    novactl start --on kvm1 --interrupted
    """
    from novactl.actions.power import Start

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Start(name=name, project=project, interrupted=interrupted),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def stop(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    force: Annotated[bool, typer.Option("--force", help="Power off at once.")] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Shut instances down: asked by ACPI, powered off after 60 seconds.

    novactl stop web1 --force
    """
    from novactl.actions.power import Stop

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Stop(name=name, project=project, force=force),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def reboot(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    hard: Annotated[
        bool, typer.Option("--hard", help="Power off at once, drop the domain and saved memory.")
    ] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Restart guests: asked by ACPI to shut down, powered off after 120 seconds, and started again.

    novactl reboot web1

    All that the host has of them but their disks is made again; --hard does so at once, and brings back what
    does not answer any more:

    novactl reboot web1 --hard
    """
    from novactl.actions.power import Reboot

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Reboot(name=name, project=project, hard=hard),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def pause(
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
    """Make guests stand still, in memory.

    novactl pause web1
    """
    from novactl.actions.memory import Pause

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Pause(name=name, project=project),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def unpause(
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
    """Let paused guests go on.

    novactl unpause web1
    """
    from novactl.actions.memory import Unpause

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Unpause(name=name, project=project),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def suspend(
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
    """Save the memory of guests on their hosts' disks, and switch them off.

    novactl suspend web1 web2
    """
    from novactl.actions.memory import Suspend

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Suspend(name=name, project=project),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def resume(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also with another QEMU than the one that saved it.")
    ] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Let suspended guests go on where they were.

    novactl resume web1 web2
    """
    from novactl.actions.memory import Resume

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Resume(name=name, project=project, force=force),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def lock(
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
    """Refuse all that would change these instances, until they are unlocked.

    novactl lock db1
    """
    from novactl.actions.describe import Lock

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Lock(name=name, project=project),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def unlock(
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
    """Let locked instances be changed again.

    novactl unlock db1
    """
    from novactl.actions.describe import Lock

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, everything)
    carry_out(
        ctx.obj,
        targets,
        lambda name: Lock(name=name, project=project, locked=False),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def delete(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    if_exists: Annotated[bool, typer.Option("--if-exists", help="Fine if it is gone.")] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Delete instances and their disks.

    novactl delete web1 web2 --yes
    """
    from novactl.actions.delete import Delete

    project = ctx.obj.settings.project
    targets = targets_of(ctx.obj, names, selector, on, False)
    if targets and not dry_run:
        ctx.obj.confirm(f"delete {', '.join(targets.values())} and their disks?")
    carry_out(
        ctx.obj,
        targets,
        lambda name: Delete(name=name, project=project, if_exists=if_exists),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def targets_of(
    session: Any,
    names: Sequence[str] | None,
    selector: Sequence[str] | None,
    on: str | None,
    everything: bool,
) -> dict[str, str]:
    """The instances meant: those named, or all that the selector, the host and --all leave, by what verbs are
    given, with the name that people are shown. What was chosen is given by uuid: a name may be another
    instance's by the time it is acted on. A selector that matches nothing means none."""
    chosen = bool(selector or on or everything)
    if chosen == bool(names):
        raise UsageError(
            "give names, or choose with -l, --on or --all" + (", not both" if names else ""),
            hint="novactl list shows what exists",
        )
    if names:
        if len(set(names)) != len(names):
            raise UsageError("the same name is given twice")
        return {name: name for name in names}
    from novactl.actions import selection
    from novactl.db import pages

    wanted = selection.wanted(project=session.settings.project, selectors=selector, host=on)
    verbs.check_host(session, on)
    return dict(session.cloud.db.read(lambda tx: pages.names(tx, wanted)))


def carry_out(
    session: Any,
    targets: Mapping[str, str],
    action: Callable[[str], Any],
    dry_run: bool,
    waiting: verbs.Waiting,
) -> None:
    """The action of each target, shown under its name."""
    actions = [action(target) for target in targets]
    if dry_run:
        verbs.dry_run(session, actions, many=True, shown=targets)
    else:
        verbs.run(session, actions, many=True, waiting=waiting, shown=targets)
