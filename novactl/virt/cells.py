"""The parts of a domain's XML that say where on its host's hardware it runs, and what a guest sees of it."""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from novactl.objects.cpuset import render
from novactl.objects.extra_specs import CpuRequest
from novactl.objects.numa import Fit
from novactl.virt.xml import el


def vcpu(count: int, confined: Sequence[int] | None, most: int | None = None) -> Element:
    """How many, and how many it may get while it runs; `confined`: the processors that guests keep to who
    have none for themselves."""
    room = most is not None and most > count
    cpuset = render(confined) if confined else None
    return el("vcpu", text=most if room else count, current=count if room else None, cpuset=cpuset)


def cputune(fit: Fit, shared: Mapping[int, Sequence[int]]) -> Element | None:
    """Each vcpu on its own processor, or on all that guests share of its cell; the emulator on all those."""
    pins = {
        vcpu: {cell.cpus[vcpu]} if cell.cpus else set(shared.get(cell.cell, ()))
        for cell in fit.cells
        for vcpu in cell.vcpus
    }
    if not all(pins.values()):
        return None
    return el(
        "cputune",
        *(el("vcpupin", vcpu=vcpu, cpuset=render(cpus)) for vcpu, cpus in sorted(pins.items())),
        el("emulatorpin", cpuset=render(set().union(*pins.values()))),
    )


def numatune(fit: Fit) -> Element:
    """Memory of each node from its cell, and from no other."""
    nodes = [
        el("memnode", cellid=node, mode="strict", nodeset=cell.cell) for node, cell in enumerate(fit.cells)
    ]
    every = render(cell.cell for cell in fit.cells)
    return el("numatune", el("memory", mode="strict", nodeset=every), *nodes)


def memory_backing(fit: Fit) -> Element | None:
    """Huge pages, when it has some."""
    sizes: dict[int, list[int]] = {}
    for node, cell in enumerate(fit.cells):
        if cell.page_kib:
            sizes.setdefault(cell.page_kib, []).append(node)
    pages = [el("page", size=size, unit="KiB", nodeset=render(nodes)) for size, nodes in sizes.items()]
    return el("memoryBacking", el("hugepages", *pages)) if pages else None


def cpu(request: CpuRequest | None, fit: Fit | None, *, host_model: bool) -> Element | None:
    """The processor that the guest sees: what was asked for, else the host's model if that is to be."""
    numa = None
    if fit is not None:
        nodes = [
            el("cell", id=node, cpus=render(cell.vcpus), memory=cell.memory_mib, unit="MiB")
            for node, cell in enumerate(fit.cells)
        ]
        numa = el("numa", *nodes)
    if request is None:
        mode = "host-model" if host_model else None
        return el("cpu", numa, mode=mode) if mode or numa is not None else None
    policies = [("require", name) for name in request.require]
    policies += [("disable", name) for name in request.disable]
    features = [el("feature", policy=policy, name=name) for policy, name in policies]
    if request.model is None:
        return el("cpu", *features, numa, mode="host-model")
    model = el("model", text=request.model, fallback="forbid")
    return el("cpu", model, *features, numa, mode="custom", match="exact")
