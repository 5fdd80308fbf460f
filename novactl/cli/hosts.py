"""novactl host …"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import drain, evacuate, placement, render, views
from novactl.errors import UsageError

LIST_COLUMNS = (
    "name",
    "address",
    "state",
    "enabled",
    "virt_type",
    "instances",
    "vcpus",
    "memory",
    "disk",
    "zone",
)
CHECK_COLUMNS = ("host", "check", "result", "message", "hint")
DRIFT = 10

app = typer.Typer(help="Hypervisors.", no_args_is_help=True, rich_markup_mode=None)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="host")


app.command("evacuate")(evacuate.of_host)
app.command("drain")(drain.drain)
app.command("undrain")(drain.undrain)


@app.command()
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name in the fleet.")],
    address: Annotated[str, typer.Option("--address", metavar="ADDR", help="Where its sshd answers.")],
    user: Annotated[str, typer.Option("--user", metavar="U", help="root, or a user with sudo -n.")] = "root",
    port: Annotated[int, typer.Option("--port", metavar="P", help="Of its sshd.")] = 22,
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="FILE", help="Your private key for it.")
    ] = None,
    jump: Annotated[
        str | None, typer.Option("--jump", metavar="HOST", help="Reached through this host.")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="SHA256:…", help="Its host key's.")
    ] = None,
    accept_host_key: Annotated[
        bool, typer.Option("--accept-host-key", help="Pin the key it shows now.")
    ] = False,
    virt_type: Annotated[
        str | None, typer.Option("--virt-type", metavar="auto|kvm|qemu", help="auto.")
    ] = None,
    instances_path: Annotated[
        str | None,
        typer.Option("--instances-path", metavar="DIR", help="Where disks are: /var/lib/novactl/instances."),
    ] = None,
    zone: Annotated[str | None, typer.Option("--zone", metavar="Z", help="nova.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="Repeatable.")] = None,
    takeover: Annotated[bool, typer.Option("--takeover", help="Even if another fleet has it.")] = False,
) -> None:
    """Check a host and enrol it. The same again refreshes what is known of it.

    novactl host add kvm1 --address 192.0.2.11 --fingerprint SHA256:…
    """
    from novactl.actions import hosts as actions
    from novactl.objects.names import key_values

    session = ctx.obj
    request = actions.HostRequest(
        name=name,
        address=address,
        port=port,
        user=user,
        jump=jump,
        identity=identity,
        fingerprint=fingerprint,
        accept_host_key=accept_host_key,
        virt_type=virt_type,
        instances_path=instances_path,
        zone=zone,
        labels=key_values(label, "--label") if label else None,
        takeover=takeover,
    )
    host, made = actions.add(session.cloud.world, session.cloud, request, session.ask)
    session.tell(f"host {host.name} {'enrolled' if made else 'unchanged; what is known of it was refreshed'}")
    _show(session, host.name)


def _views(tx: Any, found: Iterable[Any]) -> list[dict[str, Any]]:
    """Hosts with the aggregates that they are in."""
    from novactl.db import aggregates

    groups = aggregates.names_by_host(tx)
    return [views.host(host, groups.get(host.name, ())) for host in found]


def _show(session: Any, name: str) -> None:
    from novactl.db import hosts

    def read(tx: Any) -> dict[str, Any]:
        host = hosts.get(tx, name)
        return {**_views(tx, [host])[0], **views.hardware(host, hosts.numa_holds(tx, name))}

    render.show(session, session.cloud.db.read(read))


@app.command()
def capacity(
    ctx: typer.Context,
    flavor: Annotated[str, typer.Option("--flavor", metavar="F", help="Instances of this flavor.")],
    image: Annotated[str | None, typer.Option("--image", metavar="I", help="Made from this image.")] = None,
    zone: placement.Zone = None,
    aggregate: placement.Aggregate = None,
) -> None:
    """Count how many more instances fit, on each host and when any one host is lost.

    novactl host capacity --flavor small
    """
    from novactl.actions import capacity as actions
    from novactl.objects.request import BootRequest

    session = ctx.obj
    request = BootRequest(
        name="it",
        flavor=flavor,
        image=image or "",
        project=session.settings.project,
        zone=zone,
        aggregate=aggregate,
    )
    found = actions.capacity(session.cloud.world, request)
    if session.output != "table":
        render.show(session, found, ("flavor", "fits", "fits_after_any_host_lost", "lost_host"))
        return
    render.listing(session, found["hosts"], ("host", "fits", "reason"))
    worst, left = found["lost_host"], found["fits_after_any_host_lost"]
    after = f"; after the loss of {worst}, the worst: {max(0, left)}" if worst else ""
    homeless = f", and {-left} of its instances find no place" if left < 0 else ""
    session.tell(f"{found['fits']} of {flavor} fit{after}{homeless}")


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List hosts with what is used of them."""
    from novactl.db import hosts

    items = ctx.obj.cloud.db.read(lambda tx: _views(tx, hosts.everything(tx)))
    if ctx.obj.output == "table":
        items = [
            {
                **item,
                "vcpus": f"{item['vcpus_used']}/{item['vcpus']}",
                "memory": f"{item['memory_mib_used']}/{item['memory_mib']} MiB",
                "disk": f"{item['disk_gib_used']}/{item['disk_gib']} GiB",
            }
            for item in items
        ]
    render.listing(ctx.obj, items, LIST_COLUMNS if ctx.obj.output == "table" else _plain(LIST_COLUMNS))


def _plain(columns: tuple[str, ...]) -> tuple[str, ...]:
    names = {"memory": "memory_mib", "disk": "disk_gib"}
    return tuple(names.get(column, column) for column in columns)


@app.command()
def show(ctx: typer.Context, name: str) -> None:
    """Show a host."""
    _show(ctx.obj, name)


@app.command()
def check(
    ctx: typer.Context, names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]")] = None
) -> None:
    """Look at hosts: 10 when a check fails.

    novactl host check kvm1
    """
    from novactl.actions import host_checks

    rows = host_checks.check(ctx.obj.cloud.world, ctx.obj.cloud, names or [])
    render.listing(ctx.obj, rows, CHECK_COLUMNS)
    if any(row["result"] == "fail" for row in rows):
        raise typer.Exit(DRIFT)


@app.command()
def remove(ctx: typer.Context, name: str) -> None:
    """Take a host out of the fleet; it must hold no instance."""
    from novactl.actions import hosts as actions
    from novactl.db import hosts

    session = ctx.obj
    session.cloud.db.read(lambda tx: hosts.get(tx, name))
    session.confirm(f"remove host {name} from the fleet?")
    actions.remove(session.cloud.world, session.cloud, name)
    session.tell(f"host {name} removed")


@app.command("set")
def set_(
    ctx: typer.Context,
    name: str,
    disable: Annotated[bool, typer.Option("--disable", help="No new instances there.")] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why it is disabled.")
    ] = None,
    enable: Annotated[bool, typer.Option("--enable", help="Take new instances again.")] = False,
    reserved_memory: Annotated[
        int | None, typer.Option("--reserved-memory", metavar="MIB", help="Kept for the host itself.")
    ] = None,
    reserved_vcpus: Annotated[
        int | None, typer.Option("--reserved-vcpus", metavar="N", help="Kept for the host itself.")
    ] = None,
    reserved_disk: Annotated[
        int | None, typer.Option("--reserved-disk", metavar="GIB", help="Kept for the host itself.")
    ] = None,
    cpu_ratio: Annotated[
        float | None, typer.Option("--cpu-ratio", metavar="F", help="Claims per vcpu; 4 unless set.")
    ] = None,
    memory_ratio: Annotated[
        float | None, typer.Option("--memory-ratio", metavar="F", help="Claims per MiB; 1 unless set.")
    ] = None,
    disk_ratio: Annotated[
        float | None, typer.Option("--disk-ratio", metavar="F", help="Claims per GiB; 1 unless set.")
    ] = None,
    dedicated_cpus: Annotated[
        str | None,
        typer.Option("--dedicated-cpus", metavar="CPUS", help="For pinned guests alone; '' for none."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="K= removes it.")] = None,
    zone: Annotated[str | None, typer.Option("--zone", metavar="Z", help="Its availability zone.")] = None,
) -> None:
    """Change what a host offers.

    novactl host set kvm1 --disable --reason "new disks on Tuesday"

    novactl host set kvm1 --dedicated-cpus 2-7,10
    """
    from novactl.actions import hosts as actions
    from novactl.objects.names import check_name, check_text, key_values

    if disable and enable:
        raise UsageError("--disable and --enable exclude each other")
    if reason is not None and not disable:
        raise UsageError("--reason goes with --disable")
    reserved = {"memory_mib": reserved_memory, "vcpus": reserved_vcpus, "disk_gib": reserved_disk}
    ratios = {"cpu_ratio": cpu_ratio, "memory_ratio": memory_ratio, "disk_ratio": disk_ratio}
    changes: dict[str, Any] = {
        f"reserved_{key}": _reserved(value) for key, value in reserved.items() if value is not None
    }
    changes |= {key: _ratio(key, value) for key, value in ratios.items() if value is not None}
    if disable or enable:
        changes |= {
            "enabled": int(enable),
            "disabled_reason": check_text(reason, "--reason") if reason else None,
        }
    if dedicated_cpus is not None:
        changes["dedicated_cpus"] = dedicated_cpus
    if zone is not None:
        changes["zone"] = check_name(zone, "zone")
    labels = key_values(label or (), "--label")
    host = actions.change(ctx.obj.cloud.world, name, changes, labels)
    _show(ctx.obj, host.name)


def _reserved(value: int) -> int:
    from novactl.objects.host import MOST_RESERVED

    if value < 0:
        raise UsageError(f"{value} is less than 0")
    if value > MOST_RESERVED:
        raise UsageError(f"{value} is more than {MOST_RESERVED}")
    return value


def _ratio(key: str, value: float) -> float:
    if not 0 < value <= 1000:
        raise UsageError(f"{key} {value} is not within 0 (excluded) to 1000")
    return value
