"""novactl flavor, image, keypair, network …"""

from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import render, views
from novactl.cli.image_push import push
from novactl.cli.image_store import brought, store, taken_away
from novactl.cli.image_verify import verify
from novactl.cli.options import Properties
from novactl.cli.prune import prune
from novactl.errors import UsageError

flavor = typer.Typer(help="Sizes of instances.", no_args_is_help=True, rich_markup_mode=None)
image = typer.Typer(help="What root disks are made from.", no_args_is_help=True, rich_markup_mode=None)
keypair = typer.Typer(help="Public keys for the guests' users.", no_args_is_help=True, rich_markup_mode=None)
network = typer.Typer(help="Networks of instances.", no_args_is_help=True, rich_markup_mode=None)

FLAVOR_COLUMNS = ("name", "vcpus", "memory_mib", "disk_gib", "ephemeral_gib", "swap_mib")
IMAGE_COLUMNS = ("name", "status", "disk_format", "size_bytes", "virtual_size_bytes", "sha256")
KEYPAIR_COLUMNS = ("name", "fingerprint")
NETWORK_COLUMNS = ("name", "cidr", "gateway", "segment", "mtu", "used", "free")


def register(root: typer.Typer) -> None:
    root.add_typer(flavor, name="flavor")
    root.add_typer(image, name="image")
    root.add_typer(keypair, name="keypair")
    root.add_typer(network, name="network")


# --- flavor ---


@flavor.command("create")
def flavor_create(
    ctx: typer.Context,
    name: str,
    vcpus: Annotated[int, typer.Option("--vcpus", metavar="N", help="How many processors.")],
    memory: Annotated[int, typer.Option("--memory", metavar="MIB", help="How much memory.")],
    disk: Annotated[int, typer.Option("--disk", metavar="GIB", help="0: the image's own size.")],
    ephemeral: Annotated[int, typer.Option("--ephemeral", metavar="GIB", help="A second, empty disk.")] = 0,
    swap: Annotated[int, typer.Option("--swap", metavar="MIB", help="Size of disk.swap.")] = 0,
    property_: Properties = None,
) -> None:
    """Make a flavor.

    novactl flavor create small --vcpus 1 --memory 512 --disk 4
    """
    from novactl.actions import catalogue as actions
    from novactl.objects.flavor import Flavor
    from novactl.objects.names import key_values

    session = ctx.obj
    made = actions.create_flavor(
        session.cloud.world,
        Flavor(
            id=session.cloud.world.ids.uuid(),
            name=name,
            vcpus=vcpus,
            memory_mib=memory,
            disk_gib=disk,
            ephemeral_gib=ephemeral,
            swap_mib=swap,
            extra_specs=key_values(property_ or (), "--property"),
        ),
    )
    render.show(session, views.flavor(made))


@flavor.command("list")
def flavor_list(ctx: typer.Context) -> None:
    """List flavors."""
    from novactl.db import catalogue

    items = ctx.obj.cloud.db.read(lambda tx: [views.flavor(found) for found in catalogue.flavors(tx)])
    render.listing(ctx.obj, items, FLAVOR_COLUMNS)


@flavor.command("show")
def flavor_show(ctx: typer.Context, name: str) -> None:
    """Show a flavor."""
    from novactl.db import catalogue

    ctx.obj.cloud.db.read(lambda tx: render.show(ctx.obj, views.flavor(catalogue.flavor(tx, name))))


@flavor.command("delete")
def flavor_delete(ctx: typer.Context, name: str) -> None:
    """Delete a flavor; instances keep their own copy of it."""
    from novactl.actions import catalogue as actions

    actions.delete_flavor(ctx.obj.cloud.world, name)
    ctx.obj.tell(f"flavor {name} deleted")


# --- image ---


@image.command("add")
def image_add(
    ctx: typer.Context,
    name: str,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="PATH", help="raw, qcow2, vmdk or iso.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Download it; http or https.")
    ] = None,
    disk_format: Annotated[
        str | None, typer.Option("--format", metavar="raw|qcow2|vmdk|iso", help="What the file must be.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="What it must hash to.")
    ] = None,
    property_: Properties = None,
    kernel: Annotated[Path | None, typer.Option("--kernel", metavar="FILE", help="Boot this kernel.")] = None,
    initrd: Annotated[
        Path | None, typer.Option("--initrd", metavar="FILE", help="Initial ramdisk for --kernel.")
    ] = None,
    cmdline: Annotated[
        str | None, typer.Option("--cmdline", metavar="TEXT", help="The kernel's command line.")
    ] = None,
    min_disk: Annotated[int, typer.Option("--min-disk", metavar="GIB", help="Smallest root disk.")] = 0,
    min_memory: Annotated[int, typer.Option("--min-memory", metavar="MIB", help="Least memory.")] = 0,
    max_size: Annotated[
        int, typer.Option("--max-size", metavar="GIB", help="Download no more than this.")
    ] = 64,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="The URL's host may be in a network of ours.")
    ] = False,
) -> None:
    """Inspect a file and take it into the store.

    novactl image add debian --file debian-12.qcow2 --property os_distro=debian

    novactl image add alma --url https://HOST/alma.qcow2 --sha256 HEX

    A download that was cut or killed goes on when the same URL is asked for again within a day.
    """
    from novactl.actions import images
    from novactl.objects.names import key_values

    session = ctx.obj
    request = images.ImageRequest(
        name=name,
        file=file,
        url=url,
        max_size=max_size << 30,
        allow_private=allow_private,
        disk_format=disk_format,
        sha256=sha256,
        properties=key_values(property_ or (), "--property"),
        kernel=kernel,
        initrd=initrd,
        cmdline=cmdline,
        min_disk_gib=min_disk,
        min_memory_mib=min_memory,
    )

    def progress(done: int, total: int) -> None:
        part = f"{done * 100 // total} % of {total >> 20}" if total else f"{done >> 20}"
        session.progress.note(f"{name}: {part} MiB taken in")

    try:
        made = images.add(session.cloud.world, session.cloud.store, request, progress)
    finally:
        session.progress.clear()
    render.show(session, views.image(brought(session, made)))


@image.command("list")
def image_list(ctx: typer.Context) -> None:
    """List images."""
    from novactl.db import catalogue

    items = ctx.obj.cloud.db.read(lambda tx: [views.image(found) for found in catalogue.images(tx)])
    if ctx.obj.output == "table":
        items = [{**item, "sha256": item["sha256"][:12]} for item in items]
    render.listing(ctx.obj, items, IMAGE_COLUMNS)


@image.command("show")
def image_show(ctx: typer.Context, name: str) -> None:
    """Show an image."""
    from novactl.db import catalogue

    ctx.obj.cloud.db.read(lambda tx: render.show(ctx.obj, views.image(catalogue.image(tx, name))))


@image.command("set")
def image_set(
    ctx: typer.Context,
    name: str,
    new_name: Annotated[str | None, typer.Option("--name", metavar="N", help="A new name.")] = None,
    property_: Properties = None,
    min_disk: Annotated[int | None, typer.Option("--min-disk", help="Smallest disk, in GiB.")] = None,
    min_memory: Annotated[int | None, typer.Option("--min-memory", help="Least memory, in MiB.")] = None,
) -> None:
    """Rename an image or set properties (K= removes one); instances keep their own copy."""
    from novactl.actions import images
    from novactl.objects.names import key_values

    if new_name is None and not property_ and min_disk is None and min_memory is None:
        raise UsageError("nothing to set is given")
    session = ctx.obj
    changed = images.change(
        session.cloud.world,
        name,
        new_name=new_name,
        properties=key_values(property_ or (), "--property"),
        min_disk_gib=min_disk,
        min_memory_mib=min_memory,
    )
    render.show(session, views.image(changed))


@image.command("delete")
def image_delete(ctx: typer.Context, name: str) -> None:
    """Delete an image; what instances still need of it stays."""
    from novactl.actions import images
    from novactl.db import catalogue

    session = ctx.obj
    session.cloud.db.read(lambda tx: catalogue.image(tx, name))
    session.confirm(f"delete image {name}?")
    taken_away(session, images.delete(session.cloud.world, session.cloud.store, name))
    session.tell(f"image {name} deleted")


image.command()(prune)
image.command()(push)
image.command()(store)
image.command()(verify)


# --- keypair ---


@keypair.command("add")
def keypair_add(
    ctx: typer.Context,
    name: str,
    public_key: Annotated[
        Path, typer.Option("--public-key", metavar="FILE", help="As ~/.ssh/id_ed25519.pub.")
    ],
) -> None:
    """Take in a public key.

    novactl keypair add me --public-key ~/.ssh/id_ed25519.pub
    """
    from novactl.actions import catalogue as actions

    session = ctx.obj
    made = actions.add_keypair(session.cloud.world, session.settings.project, name, public_key)
    render.show(session, vars(made))


@keypair.command("list")
def keypair_list(ctx: typer.Context) -> None:
    """List keypairs."""
    from novactl.db import catalogue

    items = ctx.obj.cloud.db.read(
        lambda tx: [dict(vars(found)) for found in catalogue.keypairs(tx, ctx.obj.settings.project)]
    )
    render.listing(ctx.obj, items, KEYPAIR_COLUMNS)


@keypair.command("show")
def keypair_show(ctx: typer.Context, name: str) -> None:
    """Show a keypair."""
    from novactl.db import catalogue

    ctx.obj.cloud.db.read(
        lambda tx: render.show(ctx.obj, dict(vars(catalogue.keypair(tx, ctx.obj.settings.project, name))))
    )


@keypair.command("delete")
def keypair_delete(ctx: typer.Context, name: str) -> None:
    """Delete a keypair; guests that have it keep it."""
    from novactl.actions import catalogue as actions

    actions.delete_keypair(ctx.obj.cloud.world, ctx.obj.settings.project, name)
    ctx.obj.tell(f"keypair {name} deleted")


# --- network ---


@network.command("create")
def network_create(
    ctx: typer.Context,
    name: str,
    cidr: Annotated[str, typer.Option("--cidr", metavar="CIDR", help="Its IPv4 addresses.")],
    bridge: Annotated[str, typer.Option("--bridge", metavar="BR", help="The hosts' bridge it is on.")],
    gateway: Annotated[
        str | None, typer.Option("--gateway", metavar="IP", help="The guests' default route.")
    ] = None,
    dns: Annotated[list[str] | None, typer.Option("--dns", metavar="IP", help="Repeatable.")] = None,
    mtu: Annotated[int, typer.Option("--mtu", metavar="N", help="Largest packet.")] = 1500,
    pool: Annotated[
        str | None,
        typer.Option("--pool", metavar="FIRST-LAST", help="Addresses given when none is asked for."),
    ] = None,
) -> None:
    """Make a network on a bridge that the hosts have.

    novactl network create lan --cidr 192.0.2.0/24 --gateway 192.0.2.1 --bridge br0
    """
    from novactl.actions import catalogue as actions
    from novactl.objects.network import Network

    session = ctx.obj
    made = actions.create_network(
        session.cloud.world,
        Network(
            id=session.cloud.world.ids.uuid(),
            name=name,
            cidr=cidr,
            gateway=gateway,
            dns=tuple(dns or ()),
            mtu=mtu,
            bridge=bridge,
            project=session.settings.project,
            pool=pool,
        ),
    )
    render.show(session, views.network(made, 0))


@network.command("list")
def network_list(ctx: typer.Context) -> None:
    """List networks with how many addresses are in use."""
    from novactl.db import catalogue

    items = ctx.obj.cloud.db.read(
        lambda tx: [views.network(n, catalogue.addresses_used(tx, n.id)) for n in catalogue.networks(tx)]
    )
    render.listing(ctx.obj, items, NETWORK_COLUMNS)


@network.command("show")
def network_show(ctx: typer.Context, name: str) -> None:
    """Show a network."""
    from novactl.db import catalogue

    def work(tx: Any) -> dict[str, Any]:
        found = catalogue.network(tx, name)
        return dict(views.network(found, catalogue.addresses_used(tx, found.id)))

    render.show(ctx.obj, ctx.obj.cloud.db.read(work))


@network.command("delete")
def network_delete(ctx: typer.Context, name: str) -> None:
    """Delete a network that no instance uses; the hosts' bridge stays."""
    from novactl.actions import catalogue as actions
    from novactl.db import catalogue

    session = ctx.obj
    session.cloud.db.read(lambda tx: catalogue.network(tx, name))
    session.confirm(f"delete network {name}?")
    actions.delete_network(session.cloud.world, name)
    session.tell(f"network {name} deleted")
