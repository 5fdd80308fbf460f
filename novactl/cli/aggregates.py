"""novactl aggregate …"""

from typing import Annotated

import typer

from novactl.cli import render
from novactl.cli.options import Properties

COLUMNS = ("name", "hosts", "metadata")

app = typer.Typer(help="Groups of hosts.", no_args_is_help=True, rich_markup_mode=None)

Hosts = Annotated[list[str], typer.Argument(metavar="HOST…", help="Names of hosts.")]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="aggregate")


@app.command()
def create(
    ctx: typer.Context,
    name: str,
    host: Annotated[
        list[str] | None, typer.Option("--host", metavar="H", help="One of its hosts; repeatable.")
    ] = None,
    property_: Properties = None,
) -> None:
    """Make an aggregate; a host may be in several.

    novactl aggregate create ssd --host kvm1 --property disk=fast
    """
    from novactl.actions import aggregates
    from novactl.objects.names import key_values

    made = aggregates.create(ctx.obj.cloud.world, name, host or (), key_values(property_ or (), "--property"))
    render.show(ctx.obj, made.as_dict())


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List aggregates.

    novactl aggregate list
    """
    from novactl.db import aggregates

    found = ctx.obj.cloud.db.read(aggregates.everything)
    render.listing(ctx.obj, [one.as_dict() for one in found], COLUMNS)


@app.command()
def show(ctx: typer.Context, name: str) -> None:
    """Show an aggregate.

    novactl aggregate show ssd
    """
    from novactl.db import aggregates

    render.show(ctx.obj, ctx.obj.cloud.db.read(lambda tx: aggregates.get(tx, name)).as_dict())


@app.command("set")
def set_(ctx: typer.Context, name: str, property_: Properties = None) -> None:
    """Set its metadata; K= removes one.

    novactl aggregate set ssd --property disk=nvme
    """
    from novactl.actions import aggregates
    from novactl.objects.names import key_values

    changed = aggregates.set_metadata(ctx.obj.cloud.world, name, key_values(property_ or (), "--property"))
    render.show(ctx.obj, changed.as_dict())


@app.command("add-host")
def add_host(ctx: typer.Context, name: str, hosts: Hosts) -> None:
    """Put hosts into it; those that are in it stay.

    novactl aggregate add-host ssd kvm2 kvm3
    """
    from novactl.actions import aggregates

    render.show(ctx.obj, aggregates.add_hosts(ctx.obj.cloud.world, name, hosts).as_dict())


@app.command("remove-host")
def remove_host(ctx: typer.Context, name: str, hosts: Hosts) -> None:
    """Take hosts out of it; they stay in the fleet.

    novactl aggregate remove-host ssd kvm3
    """
    from novactl.actions import aggregates

    render.show(ctx.obj, aggregates.remove_hosts(ctx.obj.cloud.world, name, hosts).as_dict())


@app.command()
def delete(ctx: typer.Context, name: str) -> None:
    """Delete an aggregate that has no hosts.

    novactl aggregate delete ssd
    """
    from novactl.actions import aggregates

    aggregates.delete(ctx.obj.cloud.world, name)
    ctx.obj.tell(f"aggregate {name} deleted")
