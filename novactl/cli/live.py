"""novactl migrate --live and migrate-abort: guests that run go to another host."""

from typing import Annotated

import typer

from novactl.cli import verbs, views
from novactl.cli.lifecycle import _targets, _verb
from novactl.cli.options import All, DryRun, LockWait, Names, NoWait, On, Selector, Timeout
from novactl.errors import UsageError


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    app.command()(migrate)
    app.command("migrate-abort")(migrate_abort)


def migrate(
    ctx: typer.Context,
    names: Names = None,
    selector: Selector = None,
    on: On = None,
    everything: All = False,
    live: Annotated[bool, typer.Option("--live", help="While the guest runs, or is paused.")] = False,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="To this host.")] = None,
    block: Annotated[
        bool | None,
        typer.Option("--block/--shared", help="Copy the disks, or refuse to; else as the hosts' storage is."),
    ] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Nothing between the hosts: through this machine.")
    ] = False,
    skip_cpu_check: Annotated[
        bool, typer.Option("--skip-cpu-check", help="Also when the processors seem not to fit.")
    ] = False,
    max_downtime: Annotated[
        int | None, typer.Option("--max-downtime", metavar="MS", help="How long the guest may stand still.")
    ] = None,
    bandwidth: Annotated[
        int | None, typer.Option("--bandwidth", metavar="MIBPS", help="So many MiB/s at most.")
    ] = None,
    auto_converge: Annotated[
        bool, typer.Option("--auto-converge", help="Slow a guest down that writes faster than the link.")
    ] = False,
    post_copy: Annotated[
        bool, typer.Option("--post-copy", help="Let it run there before all its memory is there.")
    ] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Move instances to another host.

    novactl migrate web1 --live

    What would be done, and what was looked at on both hosts:

    novactl migrate web1 --live --host kvm2 --dry-run
    """
    from novactl.actions.live_migrate import LiveMigrate

    if not live:
        raise UsageError("migrate without --live cannot be done by this novactl")
    project = ctx.obj.settings.project
    targets = _targets(ctx.obj, names, selector, on, everything)
    _verb(
        ctx.obj,
        targets,
        lambda name: LiveMigrate(
            name=name,
            project=project,
            host=host,
            block=block,
            direct=direct,
            skip_cpu_check=skip_cpu_check,
            max_downtime_ms=max_downtime,
            bandwidth_mibps=bandwidth,
            auto_converge=auto_converge,
            post_copy=post_copy,
        ),
        dry_run,
        verbs.Waiting(no_wait, timeout, lock_wait),
    )


def migrate_abort(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or uuid of an instance.")],
) -> None:
    """End a live migration that is under way; the guest stays where it was.

    novactl migrate-abort web1
    """
    from novactl.actions import live_abort
    from novactl.cli import render
    from novactl.db import operations

    session = ctx.obj
    op = live_abort.abort(session.cloud.operator, verbs.find(session, name))
    item = session.cloud.db.read(lambda tx: views.operation(*operations.one(tx, op.id)))
    render.show(session, item, verbs.OPERATION_COLUMNS)
