"""novactl resize, migrate, resize-confirm, resize-revert: instances that get another host or flavor."""

from functools import partial
from typing import Annotated, Any

import typer

from novactl.cli import verbs
from novactl.cli.chosen import Chosen, over_instances
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import UsageError

Host = Annotated[str | None, typer.Option("--host", metavar="HOST", help="To this host.")]
Confirm = Annotated[
    bool, typer.Option("--confirm", help="Do not wait in VERIFY_RESIZE: what is left behind is removed.")
]


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    app.command()(resize)
    app.command()(migrate)
    app.command("resize-confirm")(resize_confirm)
    app.command("resize-revert")(resize_revert)


def resize(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or uuid of an instance.")],
    flavor: Annotated[str, typer.Option("--flavor", metavar="F", help="The new one.")],
    host: Host = None,
    confirm: Confirm = False,
    live: Annotated[bool, typer.Option("--live", help="The guest runs on.")] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Give an instance another flavor: on its host if that has the room, else on another. Its guest is shut
    down meanwhile. It waits in VERIFY_RESIZE until it is confirmed or reverted.

    With --live it runs on: memory and processors change now where the guest allows it, else with its next
    boot; plan and result say which. There is nothing to confirm then.

    novactl resize web1 --flavor large --dry-run

    novactl resize web1 --flavor large

    novactl resize-confirm web1

    novactl resize web1 --flavor large --live
    """
    from novactl.actions.resize import Resize

    project = ctx.obj.settings.project
    action = Resize(name=name, project=project, flavor=flavor, host=host, confirm=confirm, live=live)
    if dry_run:
        verbs.dry_run(ctx.obj, [action], many=False)
    else:
        verbs.run(ctx.obj, [action], many=True, waiting=verbs.Waiting(no_wait, timeout, lock_wait))


@over_instances
def migrate(
    chosen: Chosen,
    live: Annotated[bool, typer.Option("--live", help="The guest runs on.")] = False,
    host: Host = None,
    block: Annotated[
        bool | None,
        typer.Option("--block/--shared", help="Its disks go too, or are shared.  [default: as found]"),
    ] = None,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="This machine drives, and no host gets in at the other."),
    ] = False,
    transport: Annotated[
        str | None,
        typer.Option(
            "--transport",
            metavar="T",
            help="How memory and disks travel: ssh, tls or tcp.  [default: ssh; with --direct: tls]",
        ),
    ] = None,
    confirm: Confirm = False,
    skip_cpu_check: Annotated[
        bool, typer.Option("--skip-cpu-check", help="Though the processors differ.")
    ] = False,
    max_downtime: Annotated[
        int | None, typer.Option("--max-downtime", metavar="MS", help="It stands still no longer.")
    ] = None,
    bandwidth: Annotated[int | None, typer.Option("--bandwidth", metavar="MIBPS", help="No faster.")] = None,
    auto_converge: Annotated[
        bool, typer.Option("--auto-converge", help="Slow the guest down when it writes too fast.")
    ] = False,
    post_copy: Annotated[
        bool, typer.Option("--post-copy", help="Let it run on the target before all its memory is there.")
    ] = False,
) -> None:
    """Move instances to other hosts. With --live their guests run on, or stay paused. Without
    it they are shut down, their disks copied, and they wait in VERIFY_RESIZE until they are confirmed or
    reverted.

    novactl migrate web1 --host kvm2 --dry-run

    novactl migrate web1 web2 --confirm

    novactl migrate web1 --live --host kvm2 --dry-run

    novactl migrate web1 --live

    novactl migrate web1 --live --direct --host kvm2
    """
    options = {
        "block": block,
        "direct": direct,
        "transport": transport,
        "skip_cpu_check": skip_cpu_check,
        "max_downtime_ms": max_downtime,
        "bandwidth_mibps": bandwidth,
        "auto_converge": auto_converge,
        "post_copy": post_copy,
    }
    chosen.carry_out((_live if live else _cold)(options, host, confirm))


UNSET = {"block": None, "transport": None, "max_downtime_ms": None, "bandwidth_mibps": None}


def _cold(options: dict[str, Any], host: str | None, confirm: bool) -> Any:
    from novactl.actions.resize import Migrate

    if given := [name for name, value in options.items() if value != UNSET.get(name, False)]:
        raise UsageError(f"--{given[0].replace('_', '-')} goes with --live")
    return partial(Migrate, host=host, confirm=confirm)


def _live(options: dict[str, Any], host: str | None, confirm: bool) -> Any:
    from novactl.actions.live_migrate import LiveMigrate

    if confirm:
        raise UsageError("--confirm goes without --live: there is nothing to confirm")
    options["transport"] = options["transport"] or ("tls" if options["direct"] else "ssh")
    return partial(LiveMigrate, host=host, **options)


@over_instances
def resize_confirm(chosen: Chosen) -> None:
    """Keep instances as a resize or migration left them; what they have left behind is removed.

    novactl resize-confirm web1
    """
    from novactl.actions.resize import Confirm as Confirming

    chosen.carry_out(Confirming)


@over_instances
def resize_revert(chosen: Chosen) -> None:
    """Bring instances back to what they were before a move: host and flavor. What their guests wrote since
    is lost where the disks were copied.

    novactl resize-revert web1
    """
    from novactl.actions.resize import Revert

    chosen.carry_out(Revert)
