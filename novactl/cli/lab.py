"""novactl lab …: a disposable fleet of real hypervisors on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import render
from novactl.errors import UsageError

app = typer.Typer(
    help="A disposable fleet of real hypervisors on this machine (root).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
HOST_COLUMNS = ("lab", "name", "address", "state", "fingerprint")

LabName = Annotated[str, typer.Option("--name", metavar="L", help="Which lab.")]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="lab")


@app.command()
def up(
    ctx: typer.Context,
    name: LabName = "lab",
    hosts: Annotated[int, typer.Option("--hosts", metavar="N", help="How many hypervisors.")] = 2,
) -> None:
    """Start N hypervisors, each with its own sshd, libvirtd, name and address.

    novactl lab up --hosts 2
    """
    from novactl.lab import up as lab_up

    fleet = lab_up(name, hosts)
    session = ctx.obj
    item = {"name": fleet.name, "network": fleet.network, "gateway": fleet.gateway, "bridge": "br0"}
    item |= {"identity": str(fleet.identity), "shared": str(fleet.shared)}
    found = [{"name": h.name, "address": h.address, "fingerprint": h.fingerprint} for h in fleet.hosts]
    render.show(session, {**item, "hosts": found}, tuple(item))
    for host in found:
        session.tell(
            f"novactl host add {host['name']} --address {host['address']} --identity {fleet.identity}"
            f" --fingerprint {host['fingerprint']}"
        )


@app.command()
def status(ctx: typer.Context) -> None:
    """What labs are up, and whether their hosts are."""
    from novactl.lab import status as lab_status

    labs: list[dict[str, Any]] = lab_status()
    if ctx.obj.output == "table":
        rows = [{"lab": lab["name"], **host} for lab in labs for host in lab["hosts"]]
        render.listing(ctx.obj, rows, ("lab", "name", "address", "state", "pid"))
    else:
        render.listing(ctx.obj, labs, ("name", "network"))


@app.command()
def down(ctx: typer.Context, name: LabName = "lab") -> None:
    """Stop a lab; nothing of it is left."""
    from novactl.lab import down as lab_down

    was_there = lab_down(name)
    ctx.obj.tell(f"lab {name} {'is down' if was_there else 'unchanged: it was not up'}")


@app.command()
def image(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="tiny|debian")],
    cache: Annotated[
        Path, typer.Option("--cache", metavar="DIR", help="Where what is built is kept.")
    ] = Path("/var/cache/novactl-lab"),
) -> None:
    """Build a guest image, once, and say where its files are."""
    from novactl.lab import guests

    if kind == "tiny":
        made = guests.tiny(cache)
        item = {"name": "tiny", "file": str(made.disk), "format": "raw", "kernel": str(made.kernel)}
        item |= {"initrd": str(made.initrd), "cmdline": made.cmdline}
    elif kind == "debian":
        item = {"name": "debian", "file": str(guests.debian(cache)), "format": "qcow2"}
    else:
        raise UsageError(f"image {kind!r} is not tiny or debian")
    render.show(ctx.obj, item)
