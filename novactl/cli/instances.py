"""Verbs on instances: boot, list, show, start, stop, delete, console-log, ssh, wait."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import render, verbs, views
from novactl.cli.options import DryRun, Name, Names
from novactl.errors import UsageError

LIST_COLUMNS = ("uuid", "name", "status", "host", "addresses", "flavor", "image")
SHOW_COLUMNS = (
    "uuid name status task_state power_state host flavor image vcpus memory_mib disk_gib addresses key_name"
    " metadata tags project created_at launched_at fault"
).split()


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    app.command()(boot)
    app.command("list")(list_)
    app.command()(show)
    app.command()(start)
    app.command()(stop)
    app.command()(delete)
    app.command("console-log")(console_log)
    app.command()(ssh)
    app.command()(wait)


def boot(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The instance's name; with --count N: NAME-1 … NAME-N.")],
    flavor: Annotated[str, typer.Option("--flavor", metavar="F", help="How big it is.")],
    image: Annotated[str, typer.Option("--image", metavar="I", help="What its root disk is made from.")],
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="NET[,ip=A]", help="A NIC; repeatable.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="K", help="Keypair for its user.")] = None,
    user_data: Annotated[
        Path | None, typer.Option("--user-data", metavar="FILE", help="For cloud-init; - is stdin.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="H", help="This host or none.")] = None,
    zone: Annotated[str | None, typer.Option("--zone", metavar="Z", help="A host of this zone.")] = None,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="A tag; repeatable.")] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", help="So many, in parallel.")] = 1,
    partial: Annotated[bool, typer.Option("--partial", help="With --count: as many as fit.")] = False,
    ephemeral: Annotated[
        int | None, typer.Option("--ephemeral", metavar="GIB", help="Size of disk.local.")
    ] = None,
    swap: Annotated[int | None, typer.Option("--swap", metavar="MIB", help="Size of disk.swap.")] = None,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="Fine if it is there.")] = False,
    wait_for: Annotated[
        str, typer.Option("--wait-for", metavar="active|ssh|cloud-init", help="When it counts as up.")
    ] = "active",
    timeout: Annotated[float, typer.Option("--wait-timeout", metavar="SEC", help="For --wait-for.")] = 300,
    dry_run: DryRun = False,
) -> None:
    """Make an instance and start it.

    novactl boot web1 --flavor small --image debian --network lan --key me
    """
    from novactl.actions.boot import Boot, names_of
    from novactl.actions.watch import check_milestone
    from novactl.objects.names import key_values
    from novactl.objects.request import BootRequest

    session = ctx.obj
    check_milestone(wait_for)
    request = BootRequest(
        name=name,
        flavor=flavor,
        image=image,
        project=session.settings.project,
        networks=tuple(_network(text) for text in network or ()),
        key=key,
        user_data=_content(user_data),
        host=host,
        zone=zone,
        metadata=key_values(meta or (), "--meta"),
        tags=tuple(tag or ()),
        count=count,
        partial=partial,
        ephemeral_gib=ephemeral,
        swap_mib=swap,
        if_not_exists=if_not_exists,
    )
    if not network:
        session.tell("no --network given: the instance has no NIC")
    actions = [Boot(request=request, name=each, index=index) for index, each in enumerate(names_of(request))]
    many = count > 1
    if dry_run:
        verbs.dry_run(session, actions, many=many)
        return
    outcomes = verbs.run(session, actions, many=many, together=many and not partial)
    _wait_for(session, outcomes, wait_for, timeout)
    if not many:
        fresh = _find(session, outcomes[0].uuid)
        render.show(session, views.instance(fresh), SHOW_COLUMNS)


def _network(text: str) -> Any:
    from novactl.objects.request import NetworkRequest

    name, *options = text.split(",")
    ip = None
    for option in options:
        key, _, value = option.partition("=")
        if key != "ip" or not value:
            raise UsageError(f"--network {text!r}: {option!r} is not ip=ADDRESS")
        ip = value
    return NetworkRequest(network=name, ip=ip)


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--user-data {path}: {error.strerror}") from error


def _wait_for(session: Any, outcomes: list[Any], milestone: str, timeout: float) -> None:
    from novactl.actions import watch

    for outcome in outcomes:
        if milestone != "active" and outcome.result == "done":
            watch.milestone(session.cloud.world, outcome.instance, milestone, timeout)


def _find(session: Any, name: str, *, prefix: bool = False, deleted: bool = False) -> Any:
    from novactl.db import instances

    with session.cloud.db.read() as tx:
        return instances.find(tx, name, session.settings.project, prefix=prefix, deleted=deleted)


def list_(
    ctx: typer.Context,
    status: Annotated[
        str | None, typer.Option("--status", metavar="S", help="Only these, as ACTIVE.")
    ] = None,
    on: Annotated[str | None, typer.Option("--on", metavar="H", help="Only on this host.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="REGEX", help="Only these names.")] = None,
    selector: Annotated[
        list[str] | None,
        typer.Option("-l", "--selector", metavar="K=V", help="Only with this metadata or tag."),
    ] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="The deleted ones.")] = False,
) -> None:
    """List instances.

    novactl list --status ACTIVE -o json
    """
    from novactl.actions.selection import pattern, selected
    from novactl.db import instances

    session = ctx.obj
    wanted = pattern(name)
    with session.cloud.db.read() as tx:
        found = instances.everything(tx, project=session.settings.project, host=on, deleted=deleted)
    items = [
        views.instance(instance)
        for instance in found
        if (status is None or instance.status == status.upper())
        and (wanted is None or wanted.search(instance.name))
        and selected(instance, selector or ())
    ]
    if session.output == "table":
        items = [{**item, "addresses": views.ips(item)} for item in items]
    render.listing(session, items, LIST_COLUMNS)


def show(ctx: typer.Context, name: Name) -> None:
    """Show an instance; deleted ones by uuid."""
    found = _find(ctx.obj, name, prefix=True, deleted=True)
    render.show(ctx.obj, views.instance(found), SHOW_COLUMNS)


def start(ctx: typer.Context, names: Names, dry_run: DryRun = False) -> None:
    """Start instances: everything on the host is made again from the record.

    novactl start web1 web2
    """
    from novactl.actions.power import Start

    project = ctx.obj.settings.project
    _verb(ctx.obj, [Start(name=name, project=project) for name in names], dry_run)


def stop(
    ctx: typer.Context,
    names: Names,
    force: Annotated[bool, typer.Option("--force", help="Power off at once.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Shut instances down: asked by ACPI, powered off after 60 seconds.

    novactl stop web1 --force
    """
    from novactl.actions.power import Stop

    project = ctx.obj.settings.project
    _verb(ctx.obj, [Stop(name=name, project=project, force=force) for name in names], dry_run)


def delete(
    ctx: typer.Context,
    names: Names,
    if_exists: Annotated[bool, typer.Option("--if-exists", help="Fine if it is gone.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Delete instances and their disks.

    novactl delete web1 web2 --yes
    """
    from novactl.actions.delete import Delete

    project = ctx.obj.settings.project
    if not dry_run:
        ctx.obj.confirm(f"delete {', '.join(names)} and their disks?")
    _verb(ctx.obj, [Delete(name=name, project=project, if_exists=if_exists) for name in names], dry_run)


def _verb(session: Any, actions: list[Any], dry_run: bool) -> None:
    targets = [action.target for action in actions]
    if len(set(targets)) != len(targets):
        raise UsageError("the same name is given twice")
    if dry_run:
        verbs.dry_run(session, actions, many=True)
    else:
        verbs.run(session, actions, many=True)


def console_log(
    ctx: typer.Context,
    name: Name,
    lines: Annotated[
        int, typer.Option("--lines", metavar="N", help="The last N lines; 0: all there is.")
    ] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
) -> None:
    """Print what the guest wrote on its serial console.

    novactl console-log web1 --follow
    """
    from novactl.actions import watch

    session = ctx.obj
    if lines < 0:
        raise UsageError("--lines is negative")
    found = _find(session, name, prefix=True)
    terminal = sys.stdout.isatty()
    for piece in watch.console(session.cloud.world, found, lines=lines, follow=follow):
        sys.stdout.buffer.write(render.harmless(piece) if terminal else piece)
        sys.stdout.buffer.flush()


def ssh(
    ctx: typer.Context,
    name: Name,
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND…]", help="Run this.")] = None,
    login: Annotated[str | None, typer.Option("--login", metavar="USER", help="User in the guest.")] = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", "-i", metavar="FILE", help="Private key.")
    ] = None,
) -> None:
    """Log in to an instance through its host, or run a command there.

    novactl ssh web1 -- uptime
    """
    from novactl.guest_ssh import login_to

    session = ctx.obj
    found = _find(session, name, prefix=True)
    raise typer.Exit(login_to(session.cloud, found, command or [], login, identity))


def wait(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    condition: Annotated[str, typer.Argument(metavar="status=S|ip|ssh|cloud-init|deleted")],
    timeout: Annotated[float, typer.Option("--timeout", metavar="SEC", help="Give up after.")] = 300,
) -> None:
    """Wait until an instance is as asked; 124 when it takes longer, 1 when it is in ERROR.

    novactl wait web1 status=ACTIVE --timeout 60
    """
    from novactl.actions import watch

    watch.until(ctx.obj.cloud.world, name, ctx.obj.settings.project, condition, timeout)
