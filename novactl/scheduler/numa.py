"""Which NUMA cells of a host, and what of them, a guest gets. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from novactl.objects.numa import LARGE, Fit, FitCell, HostCell, NumaRequest

UNKNOWN = "is not known yet: novactl host check looks"

Held = Sequence[Mapping[str, Any]]
"""What other guests of the host have: Fit.as_dict() of each."""


class Left:
    """What is left of one cell."""

    def __init__(
        self, cell: HostCell, dedicated: frozenset[int], held: Iterable[Mapping[str, Any]], cpu_ratio: float
    ) -> None:
        mine = [one for one in held if one["cell"] == cell.id]
        taken = {cpu for one in mine for cpu in one["cpus"].values()}
        self.id, self.sizes = cell.id, sorted(cell.pages, reverse=True)
        self.shared = len(cell.cpus - dedicated)
        self.sharing = sum(len(one["vcpus"]) for one in mine if not one["cpus"])
        self.sharing_limit = self.shared * cpu_ratio
        self.dedicated = len(cell.cpus & dedicated)
        free = (cell.cpus & dedicated) - taken
        self.cores = [[cpu for cpu in core if cpu in free] for core in cell.cores] if free else []
        self.free = sum(map(len, self.cores))
        used: Counter[int] = Counter()
        for one in mine:
            used[one["page_kib"]] += one["memory_mib"]
        self.memory = {size: size * count // 1024 - used[size] for size, count in cell.pages.items()}
        self.memory[0] = cell.memory_mib - cell.huge_mib - used[0]

    def cpus(self, wanted: int) -> list[int]:
        """So many free dedicated processors: whole cores first, then of those that are in use in part."""
        found: list[int] = []
        cores = [core for core in self.cores if core]
        while len(found) < wanted:
            missing = wanted - len(found)
            core = min(cores, key=lambda core: (len(core) > missing, abs(len(core) - missing), core))
            cores.remove(core)
            found += core[:missing]
        return found


def fit(
    request: NumaRequest,
    topology: Sequence[HostCell],
    dedicated: frozenset[int],
    held: Held,
    cpu_ratio: float,
) -> Fit | str:
    """Where the guest's nodes go, or why they do not. The cells that are fullest come first, so that room for
    large guests stays. `cpu_ratio`: so many vcpus may share each processor of a cell."""
    if not topology:
        return f"its NUMA topology {UNKNOWN}"
    if request.dedicated and not dedicated:
        return f"dedicated cpus: {request.vcpus * request.nodes} wanted, the host has set none aside"
    if len(topology) < request.nodes:
        return f"numa nodes: {request.nodes} wanted, the host has {len(topology)}"
    taken = [one for other in held for one in other["cells"]]
    cells = [Left(cell, dedicated, taken, cpu_ratio) for cell in topology]
    reasons = []
    for page in _sizes(request, cells):
        chosen = [cell for cell in cells if _short(request, cell, page) is None]
        if len(chosen) >= request.nodes:
            chosen.sort(key=lambda cell: (cell.free if request.dedicated else 0, cell.memory[page], cell.id))
            return _made(request, chosen[: request.nodes], page)
        reasons.append(_reason(request, cells, page, len(chosen)))
    return "; ".join(dict.fromkeys(reasons)) or _no_pages(request, cells)


def _sizes(request: NumaRequest, cells: Sequence[Left]) -> list[int]:
    """The page sizes that will do, best first; 0 is ordinary memory."""
    if request.page_kib is None:
        return [0]
    there = sorted({size for cell in cells for size in cell.sizes}, reverse=True)
    if request.page_kib == LARGE:
        return [size for size in there if request.memory_mib * 1024 % size == 0]
    return [size for size in there if size == request.page_kib]


def _short(request: NumaRequest, cell: Left, page: int) -> str | None:
    """What the cell has too little of for one node."""
    if request.dedicated and cell.free < request.vcpus:
        return "cpus"
    if cell.memory.get(page, 0) < request.memory_mib:
        return "memory"
    return None if request.dedicated or _shares(request, cell) else "shared"


def _shares(request: NumaRequest, cell: Left) -> bool:
    """A guest alone never has more vcpus than the cell has processors, whatever the ratio (as in Nova)."""
    return request.vcpus <= cell.shared and cell.sharing + request.vcpus <= cell.sharing_limit


def _made(request: NumaRequest, cells: Sequence[Left], page: int) -> Fit:
    made = []
    for node, cell in enumerate(sorted(cells, key=lambda cell: cell.id)):
        vcpus = tuple(range(node * request.vcpus, (node + 1) * request.vcpus))
        cpus = cell.cpus(request.vcpus) if request.dedicated else []
        made.append(
            FitCell(
                cell=cell.id,
                vcpus=vcpus,
                cpus=dict(zip(vcpus, cpus, strict=False)),
                memory_mib=request.memory_mib,
                page_kib=page,
            )
        )
    return Fit(cells=tuple(made))


def _reason(request: NumaRequest, cells: Sequence[Left], page: int, enough: int) -> str:
    """What is wanted and what there is, of what the cells are short of."""
    short = {_short(request, cell, page) for cell in cells}
    each = "" if request.nodes == 1 else f" on each of {request.nodes} cells, {enough} have that"
    reasons = []
    if "cpus" in short:
        best = max(cell.free for cell in cells)
        there = sum(cell.dedicated for cell in cells)
        held = there - sum(cell.free for cell in cells)
        reasons.append(
            f"dedicated cpus: {request.vcpus} wanted{each}, {best} free on one cell of the host"
            f" ({held} of {there} held)"
        )
    if "memory" in short:
        best = max(0, *(cell.memory.get(page, 0) for cell in cells))
        what = f"pages of {page} KiB" if page else "memory of a cell"
        reasons.append(
            f"{what}: {request.memory_mib} MiB wanted{each}, {best} MiB free on one cell of the host"
        )
    if "shared" in short:
        others = [cell for cell in cells if _short(request, cell, page) == "shared"]
        reasons.append(f"shared cpus: {request.vcpus} wanted{each}, {_shared_left(request, others)}")
    return "; ".join(reasons)


def _shared_left(request: NumaRequest, cells: Sequence[Left]) -> str:
    large = [cell for cell in cells if cell.shared >= request.vcpus]
    if not large:
        return f"the largest cell that has the memory has {max(cell.shared for cell in cells)}"
    best = max(0, *(cell.sharing_limit - cell.sharing for cell in large))
    held, there = sum(cell.sharing for cell in cells), sum(cell.sharing_limit for cell in cells)
    return f"{best:g} free on one cell that has the memory ({held} of {there:g} held)"


def _no_pages(request: NumaRequest, cells: Sequence[Left]) -> str:
    there = sorted({size for cell in cells for size, mib in cell.memory.items() if size})
    wanted = "huge pages" if request.page_kib == LARGE else f"pages of {request.page_kib} KiB"
    known = ", ".join(f"{size} KiB" for size in there) or "none"
    return (
        f"{wanted}: the host has no such that the guest's {request.memory_mib} MiB fill (its sizes: {known})"
    )
