"""What boot and start plan alike: the steps that put a guest's parts on a host. They only read."""

from collections.abc import Iterator, Sequence
from typing import Any

from novactl.actions.steps.bridges import EnsureBridges
from novactl.actions.steps.files import CheckHost, CreateDisk, WriteConfigDrive
from novactl.actions.steps.images import FetchBase, MakeBlank
from novactl.db import hosts, instances
from novactl.db.session import Tx
from novactl.engine.step import Step
from novactl.objects import cpuset
from novactl.objects.candidate import Candidate
from novactl.objects.flavor import Flavor
from novactl.objects.host import Host
from novactl.objects.image import GIB, MIB, Image, base_format
from novactl.objects.instance import Instance
from novactl.objects.names import ephemeral_base, instance_dir, swap_base
from novactl.objects.network import Port
from novactl.objects.numa import shared_cpus, topology_of
from novactl.virt import domain

NVRAM_MOST = 128 * MIB  # bytes; what edk2 makes has less than one on x86_64, 64 MiB on aarch64


def base_steps(instance: Instance, host: str) -> list[Step]:
    """Image, kernel, initrd and blank base files; in rescue those of its rescue image too."""
    flavor = instance.flavor
    steps: list[Step] = []
    for image in (instance.image, instance.rescue_image):
        if image is not None:
            steps += [step for step in image_steps(image, host, flavor) if step not in steps]
    if flavor.ephemeral_gib:
        name, size = ephemeral_base(flavor.ephemeral_gib), flavor.ephemeral_gib * GIB
        steps.append(MakeBlank(host=host, name=name, size_bytes=size, filesystem="ext4"))
    if flavor.swap_mib:
        name, size = swap_base(flavor.swap_mib), flavor.swap_mib * MIB
        steps.append(MakeBlank(host=host, name=name, size_bytes=size, filesystem="swap"))
    return steps


def image_steps(
    image: Image, host: str, flavor: Flavor | None = None, *, any_flavor: bool = False
) -> list[FetchBase]:
    """Its disk, kernel and initrd, and what it has for the disk.local of such a flavor, or of any."""
    sizes = (image.size_bytes, image.virtual_size_bytes)
    wanted = [(f"image {image.name}", image.sha256, base_format(image.disk_format), *sizes)]
    wanted += [
        (f"{part} of image {image.name}", sha256, "file", size, size)
        for part, sha256, size in (
            ("kernel", image.kernel_sha256, image.kernel_size_bytes),
            ("initrd", image.initrd_sha256, image.initrd_size_bytes),
        )
        if sha256
    ]
    if (flavor or any_flavor) and (local := local_disk(image, flavor)):
        wanted.append((f"disk.local of image {image.name}", *local))
    return [
        FetchBase(
            host=host,
            what=what,
            sha256=sha256,
            source_format=form,
            size_bytes=size,
            virtual_size_bytes=virtual,
        )
        for what, sha256, form, size, virtual in wanted
    ]


def local_disk(image: Image, flavor: Flavor | None) -> tuple[str, str, int, int] | None:
    """(SHA-256, format, bytes, bytes for the guest) of what the image has for disk.local, when the flavor's
    (None: any) is large enough for it."""
    found = image.disks.get("disk.local")
    if found is None or (flavor and flavor.ephemeral_gib * GIB < found["virtual_size_bytes"]):
        return None
    return found["sha256"], found["disk_format"], found["size_bytes"], found["virtual_size_bytes"]


def check_step(
    instance: Instance, host: Host | Candidate, *, bridged: bool = True, copied_bytes: int = 0
) -> CheckHost:
    """The host is looked at before the instance comes: memory, where that is not overcommitted, room for its
    image and for `copied_bytes` of disks, and the bridges of its NICs unless they are made anyway."""
    image = instance.image
    assert image
    return CheckHost(
        host=host.name,
        uuid=instance.uuid,
        bridges=sorted({port.bridge for port in instance.ports}) if bridged else [],
        memory_mib=instance.resources.memory_mib if host.memory_ratio <= 1 else 0,
        fetch_bytes=copied_bytes
        + image.size_bytes
        + (image.virtual_size_bytes if image.disk_format != "raw" else 0),
        base=image.sha256,
    )


def bridge_steps(tx: Tx, instance: Instance, host: Host) -> list[Step]:
    """The bridges of its NICs, for a host that lost one."""
    bridges = sorted({port.bridge for port in instance.ports})
    if not bridges:
        return []
    uplinks, taps = host.facts.get("bridge_ports", {}), instances.taps_on(tx, host.name)
    return [
        EnsureBridges(
            host=host.name,
            bridges={bridge: uplinks.get(bridge, []) for bridge in bridges},
            taps={bridge: taps[bridge] for bridge in bridges if bridge in taps},
        )
    ]


def shutdown_timeout(instance: Instance, otherwise: float) -> float:
    """Seconds that the guest may take to shut down: what its image asks for (Nova's property)."""
    properties = instance.image.properties if instance.image else {}
    return float(properties.get("os_shutdown_timeout", otherwise))


def overlays(instance: Instance) -> list[str]:
    """The disks that only this instance has: nothing brings them back."""
    return [file for file, format_ in domain.disks_of(instance) if format_ == "qcow2"]


def disk_steps(instance: Instance, host: str) -> list[CreateDisk]:
    """The overlays: disk, disk.local, disk.swap."""
    assert instance.image
    flavor = instance.flavor
    root = max(instance.root_gib * GIB if flavor.disk_gib else 0, instance.image.virtual_size_bytes)
    wanted = [("disk", instance.image.sha256, root)]
    if flavor.ephemeral_gib:
        local = local_disk(instance.image, flavor)
        base = local[0] if local else ephemeral_base(flavor.ephemeral_gib)
        wanted.append(("disk.local", base, flavor.ephemeral_gib * GIB))
    if flavor.swap_mib:
        wanted.append(("disk.swap", swap_base(flavor.swap_mib), flavor.swap_mib * MIB))
    return [
        CreateDisk(host=host, uuid=instance.uuid, file=file, base=base, size_bytes=size)
        for file, base, size in wanted
    ]


def most_bytes(instance: Instance, file: str) -> int:
    """Bytes that one of its files can have on its host, whatever that says: what the guest sees, and what
    qcow2 adds to it: tables, bitmaps of backups, and clusters that a crash has left unused."""
    if file == "nvram":
        return NVRAM_MOST
    image, gib = instance.image, instance.root_gib if file == "disk" else instance.flavor.ephemeral_gib
    local = image.disks.get(file, {}) if image else {}
    made_from = image.virtual_size_bytes if image and file == "disk" else local.get("virtual_size_bytes", 0)
    seen = max(gib * GIB, made_from)
    return seen + seen // 16 + 64 * MIB


def config_drive_step(instance: Instance, host: Host | Candidate) -> WriteConfigDrive:
    """The config drive as the record has it; user-data only as a reference."""
    from novactl.virt.config_drive import hostname_for

    metadata: dict[str, Any] = {
        "uuid": instance.uuid,
        "name": instance.name,
        "hostname": hostname_for(instance.name),
        "launch_index": instance.launch_index,
        "availability_zone": host.zone,
        "project_id": instance.project,
        "public_keys": {instance.key_name: instance.public_key} if instance.key_name else {},
        "meta": instance.metadata,
        "nics": nics(instance.ports),
    }
    return WriteConfigDrive(
        host=host.name,
        uuid=instance.uuid,
        metadata=metadata,
        user_data=instance.user_data,
        disks=[[file, format_] for file, format_ in domain.disks_of(instance)],
    )


def nics(ports: Sequence[Port]) -> list[dict[str, Any]]:
    """What the config drive says of them."""
    return [
        {
            "id": port.id,
            "device": port.tap,
            "mac": port.mac,
            "network_id": port.network,
            "mtu": port.mtu,
            "ip": port.ip,
            "prefixlen": port.prefix,
            "gateway": port.gateway,
            "dns": list(port.dns),
        }
        for port in ports
    ]


def prepared_steps(tx: Tx, instance: Instance) -> Iterator[Step]:
    """All that a guest needs of its host besides its domain, made again while nothing was done to it yet."""
    host = hosts.get(tx, str(instance.host))
    yield from bridge_steps(tx, instance, host)
    yield from base_steps(instance, host.name)
    yield config_drive_step(instance, host)


def domain_xml(instance: Instance, host: Host, marks: domain.Marks, skeleton: str) -> str:
    """The domain of the instance on this host."""
    return domain.build(
        domain.DomainSpec(
            instance=instance,
            directory=instance_dir(host.instances_path, instance.uuid),
            base_directory=f"{host.instances_path}/_base",
            virt_type=host.virt_type,
            arch=host.facts.get("arch", "x86_64"),
            cache="none" if host.facts.get("odirect") else "writeback",
            marks=marks,
            shared=shared_cpus(topology_of(host.facts), cpuset.parse(host.dedicated_cpus)),
            confined=host.dedicated_cpus is not None,
        ),
        skeleton,
    )
