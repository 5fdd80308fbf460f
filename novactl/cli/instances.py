"""novactl list, show, wait: reading verbs on instances."""

from typing import Annotated

import typer

from novactl.cli import render, verbs, views
from novactl.cli.options import Name, On, Selector

LIST_COLUMNS = ("uuid", "name", "status", "host", "addresses", "flavor", "image")
SHOW_COLUMNS = (
    "uuid name status task_state power_state host flavor image vcpus memory_mib disk_gib addresses key_name"
    " metadata tags project created_at launched_at fault"
).split()


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    app.command("list")(list_)
    app.command()(show)
    app.command()(wait)


def list_(
    ctx: typer.Context,
    status: Annotated[
        str | None, typer.Option("--status", metavar="S", help="Only these, as ACTIVE.")
    ] = None,
    on: On = None,
    name: Annotated[str | None, typer.Option("--name", metavar="REGEX", help="Only these names.")] = None,
    selector: Selector = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="The deleted ones.")] = False,
) -> None:
    """List instances.

    novactl list --status ACTIVE -o json
    """
    from novactl.actions.selection import pattern, selected

    session = ctx.obj
    wanted = pattern(name)
    found = verbs.living(session, on, deleted=deleted)
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
    found = verbs.find(ctx.obj, name, prefix=True, deleted=True)
    render.show(ctx.obj, views.instance(found), SHOW_COLUMNS)


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
