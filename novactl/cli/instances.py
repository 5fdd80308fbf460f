"""novactl list, show, wait: reading verbs on instances."""

from typing import Annotated, Any

import typer

from novactl.cli import render, verbs, views
from novactl.cli.options import Name, On, Selector

LIST_COLUMNS = ("uuid", "name", "status", "host", "addresses", "flavor", "image")
LONG_COLUMNS = (*LIST_COLUMNS, "task_state", "power_state", "key_name", "metadata", "tags", "created_at")
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
    flavor: Annotated[str | None, typer.Option("--flavor", metavar="F", help="Only of this flavor.")] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="I", help="Only of this image.")] = None,
    ip: Annotated[
        str | None, typer.Option("--ip", metavar="ADDR|REGEX", help="Only with such an address.")
    ] = None,
    power_state: Annotated[
        str | None, typer.Option("--power-state", metavar="P", help="Only these, as running.")
    ] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="The deleted ones.")] = False,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="KEY[:asc|desc],…", help="Oldest first if not given.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="At most so many.")] = None,
    marker: Annotated[
        str | None, typer.Option("--marker", metavar="UUID", help="Those after this one.")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask their hosts first what they do.")] = False,
    long: Annotated[bool, typer.Option("--long", help="More columns.")] = False,
) -> None:
    """List instances.

    novactl list --status ACTIVE -o json

    A page of those with a tag and a metadata item, by name, after their hosts were asked:

    novactl list -l blue,role=web --sort name --limit 50 --refresh
    """
    from novactl.actions import selection
    from novactl.db import pages

    session = ctx.obj
    wanted = selection.wanted(
        project=session.settings.project,
        host=on,
        status=status,
        name=name,
        selectors=selector,
        flavor=flavor,
        image=image,
        ip=ip,
        power_state=power_state,
        deleted=deleted,
        sort=sort,
        limit=limit,
        marker=marker,
    )
    verbs.check_host(session, on)
    rows = _refreshed(session, wanted) if refresh else []
    found = session.cloud.db.read(lambda tx: pages.page(tx, wanted))
    items = [views.instance(instance) for instance in found]
    if session.output == "table":
        items = [{**item, "addresses": views.ips(item)} for item in items]
    render.listing(session, items, LONG_COLUMNS if long else LIST_COLUMNS)
    if limit is not None and len(found) == limit:
        session.tell(f"the next page: --marker {found[-1].uuid}")
    verbs.raise_unasked(rows)


def _refreshed(session: Any, wanted: Any) -> list[Any]:
    """The records of all that may be wanted, brought up to date; what was seen of each host."""
    from novactl.actions.refresh import refresh
    from novactl.db import pages

    names = session.cloud.db.read(lambda tx: pages.hosts_of(tx, wanted))
    rows = refresh(session.cloud.world, names, user=session.cloud.journal.owner.user) if names else []
    for row in rows:
        for change in row.changes:
            session.tell(f"{change.name}: {row.host} has it {change.after}, the record said {change.before}")
        for missing in row.missing:
            session.tell(f"warning: {missing}: {row.host} has no domain of it; novactl audit tells more")
    return rows


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
