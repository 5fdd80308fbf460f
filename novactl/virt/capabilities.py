"""What libvirt's capabilities and domain capabilities say of a host's hardware. Pure."""

from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, tostring

from novactl.objects.numa import HostCell
from novactl.virt.xml import el

HARDWARE = ("topology", "cpu_models", "cpu_features", "firmwares")
"""Keys of a host's facts that come from here; they stay as they were while its libvirt does not answer."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """`cpu_models`: what a guest's processor can be there; `cpu_features`: what the host's own has as a guest
    sees it; None where libvirt could not tell. `firmwares` beside QEMU's own."""

    topology: tuple[HostCell, ...] = ()
    cpu_models: tuple[str, ...] | None = None
    cpu_features: tuple[str, ...] | None = None
    firmwares: tuple[str, ...] | None = None

    def as_facts(self) -> dict[str, Any]:
        """Short: every host has it, and every decision may read it of all hosts."""
        words = {"cpu_models": self.cpu_models, "cpu_features": self.cpu_features}
        return {
            "topology": [cell.as_dict() for cell in self.topology],
            **{key: None if found is None else " ".join(found) for key, found in words.items()},
            "firmwares": None if self.firmwares is None else list(self.firmwares),
        }


def topology(capabilities: Element) -> tuple[HostCell, ...]:
    """The host's NUMA cells: one at least, where libvirt knows of any."""
    cells = capabilities.findall("host/topology/cells/cell")
    sizes = {int(page.get("size", "0")) for cell in cells for page in cell.findall("pages")}
    return tuple(_cell(cell, min(sizes, default=0)) for cell in cells if cell.find("cpus/cpu") is not None)


def _cell(cell: Element, ordinary: int) -> HostCell:
    cores: dict[str, list[int]] = {}
    for cpu in cell.findall("cpus/cpu"):
        number = cpu.get("id", "0")
        cores.setdefault(cpu.get("siblings", number), []).append(int(number))
    pages = {int(page.get("size", "0")): int(page.text or 0) for page in cell.findall("pages")}
    return HostCell(
        id=int(cell.get("id", "0")),
        cores=tuple(tuple(sorted(core)) for core in cores.values()),
        memory_mib=int(cell.findtext("memory") or 0) // 1024,
        pages={size: count for size, count in sorted(pages.items()) if size != ordinary and count},
    )


def cpu_models(domain_capabilities: Element) -> tuple[str, ...]:
    """Those that libvirt compared with the host and calls usable."""
    found = domain_capabilities.findall("cpu/mode[@name='custom']/model")
    return tuple(sorted({str(model.text) for model in found if model.get("usable") == "yes"}))


def host_model(domain_capabilities: Element) -> str:
    """The host's own processor, as libvirt takes it back to compare or expand."""
    mode = domain_capabilities.find("cpu/mode[@name='host-model']")
    return tostring(el("cpu", *(mode if mode is not None else ()), mode="custom", match="exact"), "unicode")


def cpu_features(cpu: Element) -> tuple[str, ...]:
    """Of a <cpu> with all its features written out, those that it has."""
    found = cpu.findall("feature")
    return tuple(sorted({str(one.get("name")) for one in found if one.get("policy") != "disable"}))


def firmwares(domain_capabilities: Element) -> tuple[str, ...]:
    """In Nova's words. libvirt tells of those that it finds by itself (<os firmware=…>)."""
    told = {one.text for one in domain_capabilities.findall("os/enum[@name='firmware']/value")}
    return tuple(sorted({"efi": "uefi", "bios": "bios"}.get(str(one), str(one)) for one in told))
