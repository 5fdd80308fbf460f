"""The XML of an instance's domain, from the record of the instance. Pure: text in, text out."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element, XMLParser, fromstring, register_namespace

from novactl.errors import UsageError
from novactl.objects.extra_specs import check_image_properties, cpu_request, firmware, max_vcpus
from novactl.objects.image import Image
from novactl.objects.instance import Instance
from novactl.objects.names import domain_name
from novactl.objects.network import Port
from novactl.objects.numa import Fit
from novactl.virt import cells
from novactl.virt.xml import el, render

RESCUE_DISK = "disk.rescue"
LETTERS = "abcdefgh"
NAMESPACE = "https://novactl.org/xmlns/1"
ORDER = [
    "name",
    "uuid",
    "metadata",
    "memory",
    "currentMemory",
    "memoryBacking",
    "vcpu",
    "cputune",
    "numatune",
    "os",
    "features",
    "cpu",
    "clock",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "devices",
]

register_namespace("novactl", NAMESPACE)


@dataclass(frozen=True, kw_only=True)
class Disk:
    """One disk as QEMU gets it; the format is always stated (CVE-2008-2004, CVE-2026-24708)."""

    path: str
    format: str
    serial: str
    readonly: bool = False

    def element(self, letter: str, bus: str, cache: str) -> Element:
        return el(
            "disk",
            el("driver", name="qemu", type=self.format, cache=cache, discard="unmap"),
            el("source", file=self.path),
            el("target", dev=_device(letter, bus), bus=bus),
            el("readonly") if self.readonly else None,
            el("serial", text=self.serial),
            type="file",
            device="disk",
        )


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What a domain's metadata says of whose it is. `move`: the one that waits to be confirmed or reverted
    (Migration.carried())."""

    fleet: str
    operation: str
    epoch: int
    generation: int
    move: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class DomainSpec:
    """Everything a domain is made from. `shared`: the processors of the host's cells that guests share;
    `confined`: those that have none for themselves keep to these, since others are set aside."""

    instance: Instance
    directory: str
    base_directory: str
    virt_type: str
    arch: str
    cache: str
    marks: Marks
    shared: Mapping[int, Sequence[int]] = field(default_factory=dict)
    confined: bool = False


def disks_of(instance: Instance) -> list[tuple[str, str]]:
    """(file, format) of an instance's disks in the guest's order; also the content of disk.info. What it
    boots in rescue comes first."""
    found = [(RESCUE_DISK, "qcow2")] if instance.rescue_image is not None else []
    found.append(("disk", "qcow2"))
    if instance.flavor.ephemeral_gib:
        found.append(("disk.local", "qcow2"))
    if instance.flavor.swap_mib:
        found.append(("disk.swap", "qcow2"))
    found.append(("disk.config", "raw"))
    return found


def devices_of(instance: Instance) -> dict[str, str]:
    """What libvirt calls each of disks_of(), as in vda."""
    bus = _property(instance.image, "hw_disk_bus", "virtio")
    return {file: _device(LETTERS[n], bus) for n, (file, _) in enumerate(disks_of(instance))}


def _device(letter: str, bus: str) -> str:
    return f"{'vd' if bus == 'virtio' else 'sd'}{letter}"


def build(spec: DomainSpec, skeleton: str) -> str:
    """The domain's XML; `skeleton` is templates/domain.xml as the operator has it.

    Raises UsageError when the skeleton is not XML or an image property is not acceptable.
    """
    domain = _parse(skeleton)
    instance, flavor = spec.instance, spec.instance.flavor
    domain.set("type", spec.virt_type)
    computed = [
        el("name", text=domain_name(instance.uuid)),
        el("uuid", text=instance.uuid),
        el("metadata", _metadata(spec)),
        el("memory", text=flavor.memory_mib, unit="MiB"),
        _os(spec),
        *_hardware(spec),
    ]
    for element in computed:
        if element is not None:
            _replace(domain, element)
    if firmware(instance.image) == "uefi":
        _need_acpi(domain)
    if _property(instance.image, "os_type", "linux") == "windows":
        _suit_windows(domain, kvm=spec.virt_type == "kvm")
    devices = _child(domain, "devices")
    for position, device in enumerate(_devices(spec)):
        devices.insert(position, device)
    domain[:] = sorted(domain, key=lambda child: ORDER.index(child.tag) if child.tag in ORDER else 99)
    return render(domain)


def _hardware(spec: DomainSpec) -> Iterator[Element | None]:
    instance = spec.instance
    fit = Fit.from_dict(instance.numa) if instance.numa is not None else None
    request = cpu_request(instance.flavor, instance.image)
    yield cells.cpu(request, fit, host_model=spec.virt_type == "kvm")
    if fit is None:
        every = sorted(cpu for cpus in spec.shared.values() for cpu in cpus)
        most = max_vcpus(instance.flavor)
        yield cells.vcpu(instance.flavor.vcpus, every if spec.confined else None, most)
        return
    yield cells.vcpu(instance.flavor.vcpus, None)
    yield cells.cputune(fit, spec.shared)
    yield cells.numatune(fit)
    yield cells.memory_backing(fit)


@functools.lru_cache(maxsize=1)
def check_skeleton(text: str) -> None:
    """Raises UsageError when it is none: before anything is planned from it."""
    _parse(text)


def _parse(skeleton: str) -> Element:
    try:
        root = fromstring(skeleton, parser=XMLParser())  # noqa: S314 - the operator's own template
    except SyntaxError as error:
        raise UsageError(f"templates/domain.xml is not XML: {error}") from error
    if root.tag != "domain":
        raise UsageError("templates/domain.xml does not hold a <domain>")
    return root


def _replace(domain: Element, element: Element) -> None:
    for old in domain.findall(element.tag):
        domain.remove(old)
    domain.append(element)


def _metadata(spec: DomainSpec) -> Element:
    marks = spec.marks
    waits = {"move": marks.move} if marks.move is not None else {}
    return el(
        f"{{{NAMESPACE}}}instance",
        text=json.dumps(record(spec.instance) | waits, sort_keys=True),
        fleet=marks.fleet,
        operation=marks.operation,
        epoch=marks.epoch,
        generation=marks.generation,
    )


def record(instance: Instance) -> dict[str, Any]:
    """What the domain remembers of the instance, enough to rebuild its row; never a secret."""
    return {
        "uuid": instance.uuid,
        "name": instance.name,
        "project": instance.project,
        "flavor": instance.flavor.as_dict(),
        "image": _told(instance.image) if instance.image else None,
        **({"rescue_image": _told(instance.rescue_image)} if instance.rescue_image else {}),
        **({"shelved_image": instance.shelved_image.id} if instance.shelved_image else {}),
        "ports": [{"network": p.network, "ip": p.ip, "mac": p.mac, "index": p.index} for p in instance.ports],
        "key_name": instance.key_name,
        "public_key": instance.public_key,
        "metadata": instance.metadata,
        "tags": list(instance.tags),
        "created_at": instance.created_at,
        "launch_index": instance.launch_index,
        "group_id": instance.group_id,
        "placement": instance.placement.as_dict(),
        "launched_at": instance.launched_at,
        "locked": instance.locked,
        "numa": instance.numa,
    }


def _told(image: Image) -> dict[str, Any]:
    """All but what no host may state: it judges what hosts give."""
    return {key: value for key, value in image.as_dict().items() if key != "raw_sums"}


def marked(xml: str, *, epoch: int, launched_at: str | None = None) -> str:
    """Our domain's XML as it is defined now: by this epoch (a runner that took over has a newer one than
    the plan), first started at `launched_at` unless the record says when."""
    domain = fromstring(xml)  # noqa: S314 - made by build()
    element = domain.find(f"metadata/{{{NAMESPACE}}}instance")
    assert element is not None and element.text is not None
    known = json.loads(element.text)
    element.text = json.dumps({**known, "launched_at": known["launched_at"] or launched_at}, sort_keys=True)
    element.set("epoch", str(epoch))
    return render(domain)


def _os(spec: DomainSpec) -> Element:
    image, boots = spec.instance.image, spec.instance.boot_image
    machine = _property(image, "hw_machine_type", "q35")
    direct: Sequence[Element | None] = ()
    if boots and boots.kernel_sha256:
        base = spec.base_directory
        direct = (
            el("kernel", text=f"{base}/{boots.kernel_sha256}"),
            el("initrd", text=f"{base}/{boots.initrd_sha256}") if boots.initrd_sha256 else None,
            el("cmdline", text=boots.cmdline or "console=ttyS0"),
        )
    boot = None if direct else el("boot", dev="hd")
    kind = el("type", text="hvm", arch=spec.arch, machine=machine)
    if firmware(image) != "uefi":
        return el("os", kind, *direct, boot)
    plain = el("firmware", el("feature", enabled="no", name="secure-boot"))  # else libvirt takes the first
    return el("os", kind, plain, *direct, boot, firmware="efi")


def _need_acpi(domain: Element) -> None:
    """UEFI cannot do without, whatever the operator's template says."""
    features = _child(domain, "features")
    if features.find("acpi") is None:
        features.append(el("acpi"))


def _suit_windows(domain: Element, *, kvm: bool) -> None:
    """Its clock is local time; under KVM it is told that it is virtual (Nova's _set_hypervisor features)."""
    clock = _child(domain, "clock")
    clock.set("offset", "localtime")
    if not kvm:
        return
    clock.append(el("timer", name="hypervclock", present="yes"))
    features = _child(domain, "features")
    if features.find("hyperv") is None:
        told = (el("relaxed", state="on"), el("vapic", state="on"))
        features.append(el("hyperv", *told, el("spinlocks", state="on", retries=8191)))


def _child(domain: Element, tag: str) -> Element:
    """The domain's element of that name, made when there is none."""
    found = domain.find(tag)
    if found is None:
        found = el(tag)
        domain.append(found)
    return found


def _devices(spec: DomainSpec) -> list[Element]:
    instance = spec.instance
    bus = _property(instance.boot_image, "hw_disk_bus", "virtio")
    devices = [
        Disk(
            path=f"{spec.directory}/{file}",
            format=format_,
            serial=f"{instance.uuid[:8]}-{file.replace('.', '-')}",
            readonly=file == "disk.config",
        ).element(LETTERS[position], bus, spec.cache)
        for position, (file, format_) in enumerate(disks_of(instance))
    ]
    if bus == "scsi":
        devices.append(el("controller", type="scsi", model="virtio-scsi"))
    model = _property(instance.boot_image, "hw_vif_model", "virtio")
    devices.extend(_interface(port, model) for port in instance.ports)
    devices.append(
        el(
            "serial",
            el("log", file=f"{spec.directory}/console.log", append="on"),
            el("target", port=0),
            type="pty",
        )
    )
    return devices


def _interface(port: Port, model: str) -> Element:
    return el(
        "interface",
        el("mac", address=port.mac),
        el("source", bridge=port.bridge),
        el("target", dev=port.tap),
        el("model", type=model),
        el("mtu", size=port.mtu) if port.mtu != 1500 else None,
        type="bridge",
    )


PROPERTIES = {
    "hw_machine_type": ("q35", "pc"),
    "hw_disk_bus": ("virtio", "scsi", "sata"),
    "hw_vif_model": ("virtio", "e1000", "e1000e", "rtl8139"),
    "hw_firmware_type": ("bios", "uefi"),
    "os_require_quiesce": ("no", "yes"),
    "os_type": ("linux", "windows"),
    "hw_architecture": ("x86_64", "i686", "aarch64", "armv7l", "ppc64le", "riscv64", "s390x"),
}
"""Image properties that act on the domain, and the values each may have (Nova's names)."""


def check_properties(properties: dict[str, str]) -> None:
    """Raises UsageError for an acting property with a value it cannot have."""
    timeout = properties.get("os_shutdown_timeout", "60")
    if not (timeout.isdecimal() and len(timeout) <= 5):
        raise UsageError(f"image property os_shutdown_timeout={timeout!r}: a number of seconds")
    for name, values in PROPERTIES.items():
        if properties.get(name, values[0]) not in values:
            raise UsageError(f"image property {name}={properties[name]!r}: one of {', '.join(values)}")
    if properties.get("hw_firmware_type") == "uefi" and properties.get("hw_machine_type") == "pc":
        raise UsageError("image property hw_firmware_type=uefi needs hw_machine_type=q35")
    check_image_properties(properties)


def _property(image: Image | None, name: str, default: str) -> str:
    return image.properties.get(name, default) if image else default
